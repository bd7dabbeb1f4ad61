"""A script in the style of the published package: its own options, loaders, training, evaluation and checkpoints.

python examples/published_style.py --dataset mvtec --data_path /data/mvtec_ad --task_classes bottle cable

Nothing here is written for this package but the name in the imports.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from moleflow_fast import (
    MoLEContinualTrainer,
    MoLESpatialAwareNF,
    PositionalEmbeddingGenerator,
    add_ablation_args,
    create_feature_extractor,
    create_task_dataset,
    evaluate_all_tasks,
    evaluate_routing_performance,
    get_class_names,
    init_seeds,
    parse_ablation_args,
    setup_training_logger,
)


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mvtec")
    parser.add_argument("--data_path", default="./data/mvtec_ad")
    parser.add_argument("--task_classes", nargs="+", default=None)
    parser.add_argument("--backbone_name", default="wide_resnet50_2")
    parser.add_argument("--img_size", type=int, default=224)
    parser.add_argument("--msk_size", type=int, default=256)
    parser.add_argument("--embed_dim", type=int, default=768)
    parser.add_argument("--num_epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_coupling_layers", type=int, default=8)
    parser.add_argument("--lora_rank", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_dir", default="./logs")
    parser.add_argument("--experiment_name", default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_ablation_args(parser)
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> MoLEContinualTrainer:
    config = parse_ablation_args(args)
    config.use_router = True
    extractor = create_feature_extractor(
        args.backbone_name, (3, args.img_size, args.img_size), args.embed_dim, args.device
    )
    flow = MoLESpatialAwareNF(
        embed_dim=args.embed_dim,
        coupling_layers=args.num_coupling_layers,
        lora_rank=args.lora_rank,
        device=args.device,
        ablation_config=config,
    )
    return MoLEContinualTrainer(
        vit_extractor=extractor,
        pos_embed_generator=PositionalEmbeddingGenerator(device=args.device),
        nf_model=flow,
        args=args,
        device=args.device,
        ablation_config=config,
    )


def main(argv: list[str] | None = None) -> dict:
    args = options(argv)
    init_seeds(args.seed)
    classes = args.task_classes or get_class_names(args.dataset)
    class_to_idx = {name: i for i, name in enumerate(classes)}
    trainer = build(args)
    logger = setup_training_logger(args.log_dir, args.experiment_name)
    logger.save_config(vars(args))
    trainer.set_logger(logger)

    results: dict = {}
    for task_id, name in enumerate(classes):
        data = create_task_dataset(args, [name], class_to_idx, train=True)
        loader = DataLoader(data, batch_size=args.batch_size, shuffle=True, drop_last=True, num_workers=4)
        trainer.train_task(task_id, [name], loader, num_epochs=args.num_epochs, lr=args.lr)
        results = evaluate_all_tasks(trainer, args, use_router=True)
        logger.info(f"after {name}: image AUROC {results['mean_img_auc']:.4f}, pixel {results['mean_pixel_auc']:.4f}")

    routing = evaluate_routing_performance(trainer, args)
    logger.info(f"routing accuracy {routing['overall_accuracy']:.4f}")
    logger.save_final_results_table(results, [[name] for name in classes])

    checkpoint = Path(logger.log_dir) / "model.pth"
    torch.save({"model_state_dict": trainer.nf_model.state_dict()}, checkpoint)
    again = build(args)
    again.nf_model.load_state_dict(torch.load(checkpoint, weights_only=True)["model_state_dict"])
    logger.close()
    return results


if __name__ == "__main__":
    main()
