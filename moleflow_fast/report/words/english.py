"""English."""

ENGLISH = {
    # Document
    "title": "Continual anomaly detection: analysis of the runs",
    "synthetic": (
        "Runs on the demo data set are among these: its images are synthetic, so its figures say nothing about "
        "real products and must not be set beside published ones."
    ),
    "overview": "Overview",
    "how_to_read": "How to read the tables",
    "ranking": "Ranking by image AUROC",
    "hyperparameters": "Hyper-parameters, one at a time",
    "components": "Component ablation",
    "combinations": "Combinations",
    "trade_off": "Trade-off: image AUROC against pixel AP",
    "data_sets": "Per data set",
    "classes": "Per class",
    "rivals": "Against nearest neighbours",
    "published": "Published against measured",
    "forgetting": "Forgetting per task",
    "routing": "Routing",
    "time": "Where the time goes",
    "recommendations": "Recommended configurations",
    # Protocol
    "protocol_published": (
        "These are published figures, one seed each and means over classes only. Nothing here was measured anew, "
        "and no difference has an interval."
    ),
    "protocol_departs": (
        "Not the published protocol: these figures must not be read as repetitions of the published ones."
    ),
    "protocol_named": "What all of them change against the published experiments (reference: {preset}):",
    "protocol_unnamed": "The baseline is no published configuration. Against the published protocol of {preset}:",
    "protocol_same": "Protocol: that of the published experiment {preset}.",
    "instead": "{option}: {here} instead of {there}",
    "on": "on",
    "off": "off",
    "all_classes": "all classes of the data set",
    "left_to_default": "the default",
    "option_dataset": "data set",
    "option_task_classes": "classes",
    "option_cl_scenario": "scenario",
    "option_num_epochs": "epochs per task",
    "option_img_size": "image size in pixels",
    "option_msk_size": "mask size in pixels",
    "option_batch_size": "batch size",
    "option_backbone_name": "backbone",
    "option_backbone_layers": "layers of the backbone",
    "option_random_backbone": "random weights of the backbone",
    "option_backbone_weights": "file with the backbone's weights",
    "option_embed_dim": "width of patch features",
    "option_num_coupling_layers": "coupling layers",
    "option_lora_rank": "LoRA rank",
    "option_lr": "learning rate",
    "option_dia_n_blocks": "DIA blocks",
    # Counts and baseline
    "what": "What",
    "count": "Count",
    "count_finished": "Measured runs",
    "count_published": "Published rows",
    "count_configurations": "Configurations",
    "count_groups": "Groups (same data, tasks and backbone)",
    "count_failed": "Failed runs",
    "count_unfinished": "Unfinished runs",
    "count_damaged": "Damaged runs",
    "main_group": "Main group: {group}, {count} configurations.",
    "baseline_is": "Baseline: {name} ({why}; seeds {seeds}).",
    "why_asked": "as asked for",
    "why_reference": "the published baseline",
    "why_only": "the only configuration",
    "why_neighbours": "most others depart from it in a single factor",
    "prefix": 'Names of presets stand without their beginning "{prefix}".',
    "published_rows": "published",
    "measured_runs": "measured",
    "n_classes": "{n} classes",
    # Reading
    "read_means": (
        "A configuration is all options but the seed; n counts its seeds. Figures are means over classes and "
        "seeds, \u00b1 the standard deviation over seeds (n \u2212 1)."
    ),
    "read_interval": (
        "Differences are to the baseline, paired over the seeds and classes that both have; brackets hold the 95% "
        "interval of a bootstrap ({resamples} resamples of seeds, and of classes within each)."
    ),
    "read_noise": (
        "Higher and lower are said, and bold is set, only where the interval leaves 0 out; all else is within the "
        "noise. A verdict is that of image AUROC / that of pixel AP."
    ),
    "read_no_interval": (
        "One common seed gives no interval, nor do fewer than {fewest} paired differences or means without classes: "
        "such a row shows which way a mean lies, not that it matters."
    ),
    "read_many": (
        "Intervals hold for one comparison each, and few seeds make them too narrow: of 100 settings that change "
        "nothing, simulations put 3 to 15 outside their interval with two or three seeds."
    ),
    "configuration": "Configuration",
    "also_called": "Also called",
    "several_names": "{count} configurations with several names",
    "failed_runs": "Failed runs",
    "unfinished_runs": "Unfinished runs",
    "unfinished_remedy": "They have no summary.json and are left out; go on with each by --resume.",
    "damaged_runs": "Damaged runs, left out",
    "repeated_runs": "Repeated runs, left out",
    "repeated": "{left}: same configuration and seed as {kept}",
    "repeated_differs": "{left}: same configuration and seed as {kept}, with other figures",
    "contradictions": "{count} published pairs with the same options and seed, and different figures",
    "contradiction": "{first} and {second}",
    "without_options": "Published figures without known options, left out: {names}.",
    "run": "Run",
    "error": "Error",
    "reason": "Reason",
    "reason_no_error": "no error was recorded",
    "reason_missing_file": "missing file:",
    "reason_unreadable": "cannot be read:",
    "reason_bad_line": "a line that is no record",
    # Metrics and columns
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "aupro": "AUPRO",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "routing_accuracy": "routing accuracy",
    "forgetting_measure": "forgetting measure",
    "bwt": "BWT",
    "n": "n",
    "rank": "Rank",
    "number": "No.",
    "preset": "Preset",
    "metric": "Metric",
    "task": "Task",
    "task_classes": "Classes",
    "class_name": "Class",
    "data": "Data",
    "baseline": "baseline",
    "component": "Component taken away",
    "importance": "Importance",
    "departs_in": "Departs in",
    "verdict": "Verdict",
    "difference_in": "\u0394 {metric}",
    "sum_of_singles": "\u03a3 single \u0394 {metric}",
    "of_baseline": "{metric}, baseline",
    "of_top": "{metric}, top",
    "top_minus_baseline": "\u0394",
    "routed": "Routed",
    "oracle": "True task known",
    "true_task": "true task",
    "routed_to": "routed to",
    "highest_image_auroc": "Highest mean image AUROC",
    "highest_pixel_ap": "Highest mean pixel AP",
    # Verdicts
    "verdict_higher": "higher",
    "verdict_lower": "lower",
    "verdict_noise": "within the noise",
    "verdict_no_interval": "no interval",
    "reading": "{metric}: {text}.",
    "reading_higher": "higher outside the noise with {labels}",
    "reading_lower": "lower outside the noise with {labels}",
    "reading_noise": "every difference is within the noise",
    "reading_no_interval": "No interval: means alone, so nothing is said about noise.",
    # Ranking
    "ranking_best": "{name} is the best: its image AUROC is higher than every other one's outside the noise.",
    "ranking_noise": "{name} has the highest mean, and is within the noise of {count} others ({names}): no winner.",
    "ranking_no_interval": "{name} has the highest mean. No interval: whether it is the best cannot be said.",
    "rest_of_ranking": "The other {count} configurations",
    "missing_ranking": "One configuration alone is no ranking: run others on the same data, for example presets.",
    # Factors
    "factor_learning_rate": "Learning rate",
    "factor_dia_blocks": "DIA blocks",
    "factor_coupling_layers": "Coupling layers",
    "factor_lora_rank": "LoRA rank",
    "factor_front_directions": "Directions of the Gaussian front",
    "factor_epochs": "Epochs",
    "factor_logdet_weight": "Logdet weight",
    "factor_tail_loss": "Tail loss",
    "factor_aggregation": "Score aggregation",
    "factor_spatial_kernel": "Spatial context kernel",
    "factor_scale_kernel": "Scale context kernel",
    "factor_backbone": "Backbone",
    "lines_caption": "{factor}: means, bars are standard deviations over seeds; the dotted line is the baseline.",
    "missing_hyperparameters": (
        "No configuration departs from the baseline {baseline} in one factor alone: run the baseline with one "
        "option changed, for example --dia_n_blocks 6."
    ),
    # Components
    "component_dia": "DIA",
    "component_adapter": "Adapter",
    "component_whitening": "Whitening (another adapter instead)",
    "component_router": "Router",
    "component_mahalanobis": "Mahalanobis distance",
    "component_lora": "LoRA",
    "component_task_bias": "Task bias",
    "component_positions": "Positions",
    "component_spatial": "Spatial context",
    "component_scale": "Scale context",
    "component_freeze": "Frozen base (sequential training)",
    "component_separated": "Shared base (a flow per task)",
    "component_regular_linear": "LoRA (full layers per task)",
    "component_spectral": "Plain weights (spectral norm)",
    "full_model": "none (baseline)",
    "stars_rule": (
        "Importance by the loss of mean image AUROC without the component (stars {rule}, else 1). Stars rank "
        "means and say nothing about noise."
    ),
    "missing_components": "No configuration is the baseline {baseline} without one component: run it with --no_dia, "
    "--no_task_adapter, --no_lora, --no_pos_embedding, --no_spatial_context, --no_scale_context or "
    "--no_router.",
    # Combinations
    "sums_exist": "Of {count} combinations every single departure was run too.",
    "sums_means": "Mean {metric} lies below the sum of the single differences in {below} of {count}.",
    "sums": "Outside the noise: above the sum {higher}, below it {lower}; within the noise {noise}, no interval "
    "{no_interval}.",
    "sums_missing": "Whether gains add up cannot be said: of no combination was every single departure run.",
    "rest_of_combinations": "The other {count} combinations",
    "missing_combinations": (
        "No configuration departs from the baseline in more than one factor: run the baseline with two options "
        "changed that were also run alone."
    ),
    # Trade-off
    "trade_off_caption": (
        "Each point is a configuration (means). Joined and numbered: the Pareto front. Star: the baseline."
    ),
    "trade_off_outside": "{count} far lower ones lie outside of the plot.",
    "front_is_of_means": (
        "The front: configurations whose means none surpasses in both metrics. It is one of means; points closer "
        "than the noise may change places with other seeds."
    ),
    "missing_trade_off": "Fewer than three configurations have both metrics: run more of them on the same data.",
    # Data sets and classes
    "data_sets_lead": (
        "Figures of different groups are not comparable: data, tasks or backbone differ. Routing accuracy is the "
        "baseline's of each group."
    ),
    "ranking_of": "Ranking: {group}, {count} configurations",
    "classes_lead": (
        "Baseline ({baseline}) and the configuration with the highest mean image AUROC ({top}), means over seeds. "
        "Single classes have no interval."
    ),
    "classes_alone": "The baseline also has the highest mean image AUROC.",
    "missing_classes": (
        "The figures here are means without classes: give run directories, whose tables hold every class."
    ),
    # Published against measured
    "published_figure": "{metric}, published",
    "measured_figure": "{metric}, measured",
    "published_change": "\u0394 {metric}, published",
    "measured_change": "\u0394 {metric}, measured",
    "sign_of": "Sign",
    "sign_agrees": "agrees",
    "sign_disagrees": "disagrees",
    "sign_noise": "within the noise",
    "sign_no_interval": "no interval",
    "sign_equal": "published as equal",
    "published_counts": (
        "Sign of the difference in {metric}: agrees {agrees}, disagrees {disagrees}, within the noise {noise}, no "
        "interval {no_interval}, published as equal {equal}."
    ),
    "published_skipped": (
        "Not compared, because under this protocol they differ from the baseline otherwise than as published: {names}."
    ),
    "missing_published": "Needs the baseline and other presets measured on the same data: run them with python -m "
    "moleflow_fast.cli.train --preset NAME --data_path DIR, and give their directories.",
    # Continual
    "forgetting_lead": (
        "Baseline {baseline}, means over seeds, image AUROC under routed ids. Forgetting measure: highest earlier "
        "figure minus the final one; BWT: final minus the one right after the task was learned."
    ),
    "forgetting_of_all": "Mean over tasks of all {count} configurations",
    "missing_forgetting": "Needs measured runs with at least two tasks: give run directories of such runs.",
    "routing_lead": (
        "Baseline {baseline}: {accuracy} of the test images go to their own task (sum over {seeds} seeds)."
    ),
    "routing_caption": "Images by true task (rows) and routed task (columns).",
    "missing_routing": (
        "Needs a measured baseline whose summary.json has routing_confusion: run it with this version, and give "
        "its directory."
    ),
    # Rivals
    "rivals_lead": (
        "Baseline {baseline} under routed ids, nearest neighbours among training patches under true ids: they have no "
        "router. Means over {count} classes, each figure over those that have it."
    ),
    "rivals_left_out": "Left out, because not all have them: {names}.",
    "missing_rivals": "The file of nearest neighbours has no class of the baseline: make it from the same data.",
    "rival": "nearest neighbour, {coreset} coreset",
    "seconds_a_task": "seconds a task",
    "megabytes_a_task": "MB a task",
    "rivals_by_class": "{metric} by class",
    # Time
    "time_lead": (
        "Baseline {baseline}, mean of {seeds} seeds: {seconds} s from the start of the program, or from its last start "
        "where a run was resumed. What is done beside the run counts where the run waits for it."
    ),
    "missing_time": "Needs a measured baseline whose summary.json has seconds: run it with this version.",
    "phase": "phase",
    "seconds": "seconds",
    "share": "share",
    "phase_imports": "imports",
    "phase_check": "check of the data",
    "phase_decoding": "decoding",
    "phase_backbone": "backbone",
    "phase_cache": "feature cache",
    "phase_compiling": "compiling",
    "phase_training": "training",
    "phase_routing": "routing",
    "phase_scoring": "scoring",
    "phase_metrics": "metrics",
    "phase_calibration": "calibration",
    "phase_pictures": "pictures",
    "phase_checkpoints": "checkpoints",
    "phase_tables": "tables",
    "phase_idle": "waiting for workers",
    "phase_rest": "everything else",
    # Recommendations
    "goal_image_auroc": "For image AUROC",
    "goal_image_auroc_rule": "Highest mean image AUROC of {count} configurations.",
    "goal_pixel_ap": "For pixel AP",
    "goal_pixel_ap_rule": "Highest mean pixel AP of {count} configurations.",
    "goal_balanced": "Balanced",
    "goal_balanced_rule": "Smallest sum of the ranks in image AUROC and in pixel AP among {count} configurations.",
    "chosen_is_baseline": "This is the baseline itself.",
    "chosen_higher": "{metric} against the baseline: {difference}, higher outside the noise.",
    "chosen_lower": "{metric} against the baseline: {difference}, lower outside the noise.",
    "chosen_noise": "{metric} against the baseline: {difference}, within the noise. It may be no gain at all.",
    "chosen_no_interval": "No interval for {metric}: chosen by means alone. Run more seeds before relying on it.",
    "chosen_tied": "{metric}: within the noise of {count} other configurations.",
    "missing_recommendations": "Needs at least two configurations with both metrics.",
    "avoid": "Settings to avoid",
    "avoid_rule": (
        "Single departures with lower image AUROC outside the noise; where there is no interval, a mean lower by "
        "{loss} or more. Components have their own section."
    ),
    "avoid_none": "None.",
    "no_influence": "Settings without measurable influence",
    "no_influence_rule": (
        "Factors whose every difference in both metrics is within the noise; where there is no interval, at most "
        "{least}."
    ),
    "no_influence_none": "None.",
    "at_most": "largest difference {difference}",
}
