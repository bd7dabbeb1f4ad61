"""Korean."""

KOREAN = {
    # Document
    "title": "연속 이상 탐지 실험 결과 분석",
    "synthetic": (
        "데모 데이터셋 실험이 포함되어 있습니다. 이미지가 합성된 것이므로 수치는 실제 제품에 대해 아무것도 말해 "
        "주지 않으며, 공개된 수치와 비교해서는 안 됩니다."
    ),
    "overview": "실험 개요",
    "how_to_read": "표를 읽는 방법",
    "ranking": "이미지 AUROC 기준 순위",
    "hyperparameters": "하이퍼파라미터별 분석",
    "components": "구성 요소 제거 실험",
    "combinations": "조합 실험",
    "trade_off": "이미지 AUROC와 픽셀 AP의 상충 관계",
    "data_sets": "데이터셋별 결과",
    "classes": "클래스별 결과",
    "rivals": "최근접 이웃과 비교",
    "published": "공개 수치와 측정 수치 비교",
    "forgetting": "태스크별 망각",
    "routing": "라우팅",
    "time": "시간이 쓰인 곳",
    "recommendations": "권장 설정",
    # Protocol
    "protocol_published": (
        "이 수치는 공개된 값으로, 시드 하나의 클래스 평균뿐입니다. 새로 측정한 것은 없으며 어떤 차이에도 구간이 "
        "없습니다."
    ),
    "protocol_departs": "공개된 실험 조건과 다릅니다. 이 수치를 공개된 결과의 재현으로 읽어서는 안 됩니다.",
    "protocol_named": "모든 실험이 공개된 실험(기준: {preset})과 다르게 설정한 항목:",
    "protocol_unnamed": "기준 설정은 공개된 설정이 아닙니다. {preset}의 공개된 실험 조건과 다른 항목:",
    "protocol_same": "실험 조건: 공개된 실험 {preset}과 같습니다.",
    "instead": "{option}: {here} (공개된 값: {there})",
    "on": "켬",
    "off": "끔",
    "all_classes": "데이터셋의 모든 클래스",
    "left_to_default": "기본값",
    "option_dataset": "데이터셋",
    "option_task_classes": "클래스",
    "option_cl_scenario": "시나리오",
    "option_num_epochs": "태스크당 에폭",
    "option_img_size": "이미지 크기(픽셀)",
    "option_msk_size": "마스크 크기(픽셀)",
    "option_batch_size": "배치 크기",
    "option_backbone_name": "백본",
    "option_backbone_layers": "백본 층",
    "option_random_backbone": "백본의 무작위 가중치",
    "option_backbone_weights": "백본 가중치 파일",
    "option_embed_dim": "패치 특징의 차원",
    "option_num_coupling_layers": "커플링 층",
    "option_lora_rank": "LoRA 랭크",
    "option_lr": "학습률",
    "option_dia_n_blocks": "DIA 블록",
    # Counts and baseline
    "what": "항목",
    "count": "개수",
    "count_finished": "측정된 실험",
    "count_published": "공개된 행",
    "count_configurations": "설정",
    "count_groups": "그룹 (같은 데이터, 태스크, 백본)",
    "count_failed": "실패한 실험",
    "count_unfinished": "끝나지 않은 실험",
    "count_damaged": "손상된 실험",
    "main_group": "주 그룹: {group}, 설정 {count}개.",
    "baseline_is": "기준 설정: {name} ({why}; 시드 {seeds}).",
    "why_asked": "요청된 기준",
    "why_reference": "공개된 기준",
    "why_only": "유일한 설정",
    "why_neighbours": "한 요인만 다른 설정이 가장 많음",
    "prefix": "프리셋 이름은 앞부분 {prefix} 없이 적습니다.",
    "published_rows": "공개",
    "measured_runs": "측정",
    "n_classes": "클래스 {n}개",
    # Reading
    "read_means": (
        "설정은 시드를 제외한 모든 옵션이며, n은 시드의 수입니다. 수치는 클래스와 시드에 대한 평균이고, \u00b1 "
        "뒤는 시드에 대한 표준편차(n \u2212 1)입니다."
    ),
    "read_interval": (
        "차이는 기준 설정과의 차이로, 양쪽에 모두 있는 시드와 클래스끼리 짝지어 계산합니다. 대괄호는 부트스트랩 "
        "95% 구간입니다(시드를, 그리고 각 시드 안에서 클래스를 {resamples}번 재추출)."
    ),
    "read_noise": (
        "구간이 0을 포함하지 않을 때만 높음·낮음이라고 하고 굵게 표시합니다. 나머지는 모두 잡음 범위입니다. "
        "판정은 이미지 AUROC / 픽셀 AP 순서입니다."
    ),
    "read_no_interval": (
        "공통 시드가 하나이거나, 짝지은 차이가 {fewest}개보다 적거나, 클래스별 값이 없으면 구간이 없습니다. 그런 행은 "
        "평균의 방향을 보여 줄 뿐 의미 있는 차이라는 뜻이 아닙니다."
    ),
    "read_many": (
        "구간은 비교 하나하나에 대한 것이며, 시드가 적으면 지나치게 좁습니다. 모의실험에서 아무 영향이 없는 설정 "
        "100개 가운데 시드가 둘이나 셋이면 3~15개가 구간을 벗어났습니다."
    ),
    "configuration": "설정",
    "also_called": "다른 이름",
    "several_names": "이름이 여러 개인 설정 {count}개",
    "failed_runs": "실패한 실험",
    "unfinished_runs": "끝나지 않은 실험",
    "unfinished_remedy": "summary.json이 없어 제외했습니다. --resume 으로 이어서 실행하십시오.",
    "damaged_runs": "손상되어 제외한 실험",
    "repeated_runs": "중복되어 제외한 실험",
    "repeated": "{left}: {kept}와 설정과 시드가 같음",
    "repeated_differs": "{left}: {kept}와 설정과 시드가 같으나 수치가 다름",
    "contradictions": "옵션과 시드가 같은데 수치가 다른 공개 행 {count}쌍",
    "contradiction": "{first} / {second}",
    "without_options": "옵션이 알려지지 않아 제외한 공개 수치: {names}.",
    "run": "실험",
    "error": "오류",
    "reason": "이유",
    "reason_no_error": "기록된 오류 없음",
    "reason_missing_file": "없는 파일:",
    "reason_unreadable": "읽을 수 없음:",
    "reason_bad_line": "기록이 아닌 줄",
    # Metrics and columns
    "image_auroc": "이미지 AUROC",
    "image_ap": "이미지 AP",
    "aupro": "AUPRO",
    "pixel_auroc": "픽셀 AUROC",
    "pixel_ap": "픽셀 AP",
    "routing_accuracy": "라우팅 정확도",
    "forgetting_measure": "망각 척도",
    "bwt": "BWT",
    "n": "n",
    "rank": "순위",
    "number": "번호",
    "preset": "프리셋",
    "metric": "지표",
    "task": "태스크",
    "task_classes": "클래스",
    "class_name": "클래스",
    "data": "데이터",
    "baseline": "기준",
    "component": "제거된 구성 요소",
    "importance": "중요도",
    "departs_in": "기준과 다른 옵션",
    "verdict": "판정",
    "difference_in": "\u0394 {metric}",
    "sum_of_singles": "단일 \u0394의 합, {metric}",
    "of_baseline": "{metric}, 기준",
    "of_top": "{metric}, 1위",
    "top_minus_baseline": "\u0394",
    "routed": "라우팅 사용",
    "oracle": "실제 태스크 사용",
    "true_task": "실제 태스크",
    "routed_to": "라우팅된 태스크",
    "highest_image_auroc": "가장 높은 평균 이미지 AUROC",
    "highest_pixel_ap": "가장 높은 평균 픽셀 AP",
    # Verdicts
    "verdict_higher": "높음",
    "verdict_lower": "낮음",
    "verdict_noise": "잡음 범위",
    "verdict_no_interval": "구간 없음",
    "reading": "{metric}: {text}.",
    "reading_higher": "잡음 범위를 넘어 높음: {labels}",
    "reading_lower": "잡음 범위를 넘어 낮음: {labels}",
    "reading_noise": "모든 차이가 잡음 범위 안에 있음",
    "reading_no_interval": "구간 없음: 평균만 있으므로 잡음에 대해서는 말할 수 없습니다.",
    # Ranking
    "ranking_best": "{name}: 다른 모든 설정보다 이미지 AUROC가 잡음 범위를 넘어 높으므로 최고 설정입니다.",
    "ranking_noise": (
        "{name}: 평균이 가장 높지만 다른 설정 {count}개({names})와 잡음 범위 안에 있습니다. 승자를 정할 수 없습니다."
    ),
    "ranking_no_interval": "{name}: 평균이 가장 높습니다. 구간이 없으므로 최고 설정이라고 말할 수 없습니다.",
    "rest_of_ranking": "나머지 설정 {count}개",
    "missing_ranking": "설정이 하나뿐이라 순위가 없습니다. 같은 데이터에서 프리셋 등 다른 설정을 실행하십시오.",
    # Factors
    "factor_learning_rate": "학습률",
    "factor_dia_blocks": "DIA 블록 수",
    "factor_coupling_layers": "커플링 층 수",
    "factor_lora_rank": "LoRA 랭크",
    "factor_front_directions": "가우시안 프런트 방향 수",
    "factor_epochs": "에폭 수",
    "factor_logdet_weight": "logdet 가중치",
    "factor_tail_loss": "꼬리 손실",
    "factor_aggregation": "점수 집계 방식",
    "factor_spatial_kernel": "공간 문맥 커널",
    "factor_scale_kernel": "스케일 문맥 커널",
    "factor_backbone": "백본 설정",
    "lines_caption": "{factor}: 평균, 막대는 시드에 대한 표준편차, 점선은 기준 설정.",
    "missing_hyperparameters": (
        "기준 설정 {baseline}과 한 요인만 다른 설정이 없습니다. 옵션 하나만 바꾸어 실행하십시오(예: --dia_n_blocks 6)."
    ),
    # Components
    "component_dia": "DIA",
    "component_adapter": "어댑터",
    "component_whitening": "화이트닝 (다른 어댑터로 대체)",
    "component_router": "라우터",
    "component_mahalanobis": "마할라노비스 거리",
    "component_lora": "LoRA",
    "component_task_bias": "태스크 편향",
    "component_positions": "위치 임베딩",
    "component_spatial": "공간 문맥",
    "component_scale": "스케일 문맥",
    "component_freeze": "고정된 기반 (순차 학습)",
    "component_separated": "공유 기반 (태스크별 플로우)",
    "component_regular_linear": "LoRA (태스크별 전체 층)",
    "component_spectral": "일반 가중치 (스펙트럼 정규화)",
    "full_model": "없음 (기준)",
    "stars_rule": (
        "중요도는 구성 요소를 제거했을 때 평균 이미지 AUROC의 손실로 정합니다(별 {rule}, 그 외 1). 별은 평균의 "
        "순서일 뿐 잡음에 대해서는 말하지 않습니다."
    ),
    "missing_components": (
        "기준 설정 {baseline}에서 구성 요소 하나만 뺀 설정이 없습니다. --no_dia, --no_task_adapter, --no_lora, "
        "--no_pos_embedding, --no_spatial_context, --no_scale_context, --no_router 중 하나로 실행하십시오."
    ),
    # Combinations
    "sums_exist": "조합 {count}개는 각 단일 변경도 모두 실행되었습니다.",
    "sums_means": "평균 {metric}: 조합 {count}개 가운데 {below}개에서 단일 차이의 합보다 낮습니다.",
    "sums": "잡음 범위를 넘어 합보다 높음 {higher}, 합보다 낮음 {lower}. 잡음 범위 {noise}, 구간 없음 {no_interval}.",
    "sums_missing": "효과가 더해지는지 말할 수 없습니다. 모든 단일 변경이 실행된 조합이 없습니다.",
    "rest_of_combinations": "나머지 조합 {count}개",
    "missing_combinations": (
        "기준과 두 요인 이상 다른 설정이 없습니다. 따로 실행한 두 옵션을 함께 바꾸어 실행하십시오."
    ),
    # Trade-off
    "trade_off_caption": "점 하나가 설정 하나(평균)입니다. 선과 번호: 파레토 경계. 별: 기준 설정.",
    "trade_off_outside": "훨씬 낮은 {count}개는 그림 밖에 있습니다.",
    "front_is_of_means": (
        "경계: 두 지표 모두에서 더 높은 평균을 가진 설정이 없는 설정. 평균에 따른 경계이므로, 잡음보다 가까운 "
        "점들은 시드가 바뀌면 자리가 바뀔 수 있습니다."
    ),
    "missing_trade_off": "두 지표가 모두 있는 설정이 세 개보다 적습니다. 같은 데이터에서 더 실행하십시오.",
    # Data sets and classes
    "data_sets_lead": (
        "그룹이 다르면 데이터, 태스크 또는 백본이 다르므로 수치를 비교할 수 없습니다. 라우팅 정확도는 각 그룹의 "
        "기준 설정의 값입니다."
    ),
    "ranking_of": "순위: {group}, 설정 {count}개",
    "classes_lead": (
        "기준 설정({baseline})과 평균 이미지 AUROC가 가장 높은 설정({top})의 시드 평균. 클래스 하나에는 구간이 "
        "없습니다."
    ),
    "classes_alone": "기준 설정의 평균 이미지 AUROC가 가장 높기도 합니다.",
    "missing_classes": "여기의 수치는 클래스별 값이 없는 평균입니다. 클래스별 표가 있는 실험 디렉터리를 지정하십시오.",
    # Published against measured
    "published_figure": "{metric}, 공개",
    "measured_figure": "{metric}, 측정",
    "published_change": "\u0394 {metric}, 공개",
    "measured_change": "\u0394 {metric}, 측정",
    "sign_of": "부호",
    "sign_agrees": "일치",
    "sign_disagrees": "불일치",
    "sign_noise": "잡음 범위",
    "sign_no_interval": "구간 없음",
    "sign_equal": "공개 수치 차이 없음",
    "published_counts": (
        "{metric} 차이의 부호: 일치 {agrees}, 불일치 {disagrees}, 잡음 범위 {noise}, 구간 없음 {no_interval}, "
        "공개 수치 차이 없음 {equal}."
    ),
    "published_skipped": "이 실험 조건에서는 기준과의 차이가 공개된 것과 달라 비교하지 않음: {names}.",
    "missing_published": (
        "같은 데이터에서 측정한 기준 설정과 다른 프리셋이 필요합니다. moleflow train --preset NAME "
        "--data_path DIR 로 실행하고 그 디렉터리를 지정하십시오."
    ),
    # Continual
    "forgetting_lead": (
        "기준 설정 {baseline}, 시드 평균, 라우팅된 태스크로 계산한 이미지 AUROC. 망각 척도: 이전의 가장 높은 "
        "값에서 최종 값을 뺀 것. BWT: 최종 값에서 그 태스크를 배운 직후의 값을 뺀 것."
    ),
    "forgetting_of_all": "설정 {count}개의 태스크 평균",
    "missing_forgetting": "태스크가 둘 이상인 측정 실험이 필요합니다. 그런 실험 디렉터리를 지정하십시오.",
    "routing_lead": "기준 설정 {baseline}: 테스트 이미지의 {accuracy}가 제 태스크로 갑니다(시드 {seeds}개의 합).",
    "routing_caption": "실제 태스크(행)와 라우팅된 태스크(열)별 이미지 수.",
    "missing_routing": (
        "summary.json에 routing_confusion이 있는 측정된 기준 설정이 필요합니다. 이 버전으로 실행하고 그 "
        "디렉터리를 지정하십시오."
    ),
    # Rivals
    "rivals_lead": (
        "기준 설정 {baseline}은 라우팅된 태스크로, 학습 패치의 최근접 이웃은 라우터가 없으므로 실제 태스크로 "
        "계산했습니다. 클래스 {count}개의 평균이며, 값이 있는 클래스만 셉니다."
    ),
    "rivals_left_out": "모두에 있지는 않아 제외한 클래스: {names}.",
    "missing_rivals": "최근접 이웃 파일에 기준 설정의 클래스가 없습니다. 같은 데이터로 다시 만드십시오.",
    "rival": "최근접 이웃, {coreset} 코어셋",
    "seconds_a_task": "태스크당 초",
    "megabytes_a_task": "태스크당 MB",
    "rivals_by_class": "클래스별 {metric}",
    # Time
    "time_lead": (
        "기준 설정 {baseline}, 시드 {seeds}개의 평균: 프로그램 시작부터(이어서 실행했으면 마지막 시작부터) "
        "{seconds}초. 실험과 나란히 진행되는 일은 실험이 그것을 기다릴 때만 셉니다."
    ),
    "missing_time": "summary.json에 seconds가 있는 측정된 기준 설정이 필요합니다. 이 버전으로 실행하십시오.",
    "phase": "단계",
    "seconds": "초",
    "share": "비율",
    "phase_imports": "모듈 불러오기",
    "phase_check": "데이터 검사",
    "phase_decoding": "이미지 디코딩",
    "phase_backbone": "백본",
    "phase_cache": "특징 캐시",
    "phase_compiling": "컴파일",
    "phase_training": "학습",
    "phase_routing": "라우팅",
    "phase_scoring": "점수 계산",
    "phase_metrics": "지표 계산",
    "phase_calibration": "보정",
    "phase_pictures": "그림",
    "phase_checkpoints": "체크포인트",
    "phase_tables": "표",
    "phase_idle": "작업자 대기",
    "phase_rest": "그 밖",
    # Recommendations
    "goal_image_auroc": "이미지 AUROC 우선",
    "goal_image_auroc_rule": "설정 {count}개 가운데 평균 이미지 AUROC가 가장 높음.",
    "goal_pixel_ap": "픽셀 AP 우선",
    "goal_pixel_ap_rule": "설정 {count}개 가운데 평균 픽셀 AP가 가장 높음.",
    "goal_balanced": "균형 잡힌 설정",
    "goal_balanced_rule": "설정 {count}개 가운데 이미지 AUROC 순위와 픽셀 AP 순위의 합이 가장 작음.",
    "chosen_is_baseline": "기준 설정 자체입니다.",
    "chosen_higher": "{metric}, 기준 대비 {difference}: 잡음 범위를 넘어 높음.",
    "chosen_lower": "{metric}, 기준 대비 {difference}: 잡음 범위를 넘어 낮음.",
    "chosen_noise": "{metric}, 기준 대비 {difference}: 잡음 범위. 실제로는 이득이 아닐 수 있습니다.",
    "chosen_no_interval": "{metric}: 구간 없음. 평균만으로 골랐으므로 더 많은 시드로 확인하십시오.",
    "chosen_tied": "{metric}: 다른 설정 {count}개와 잡음 범위 안에 있음.",
    "missing_recommendations": "두 지표가 모두 있는 설정이 두 개 이상 필요합니다.",
    "avoid": "피해야 할 설정",
    "avoid_rule": (
        "한 요인만 바꾸어 이미지 AUROC가 잡음 범위를 넘어 낮아진 설정. 구간이 없으면 평균이 {loss} 이상 낮은 것. "
        "구성 요소는 따로 다룹니다."
    ),
    "avoid_none": "없음.",
    "no_influence": "측정 가능한 영향이 없는 설정",
    "no_influence_rule": "두 지표의 모든 차이가 잡음 범위에 있는 요인. 구간이 없으면 차이가 {least} 이하인 것.",
    "no_influence_none": "없음.",
    "at_most": "가장 큰 차이 {difference}",
}
