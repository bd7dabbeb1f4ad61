"""Options of `density_loss` that every implementation is tested with."""

LOSSES = {
    "plain": {"tail_weight": None, "tail_top_k_ratio": 0.05, "lambda_logdet": 0.0},
    "penalty": {"tail_weight": None, "tail_top_k_ratio": 0.05, "lambda_logdet": 1e-2},
    "tail": {"tail_weight": 0.3, "tail_top_k_ratio": 0.05, "lambda_logdet": 1e-3},
    "tail alone": {"tail_weight": 1.0, "tail_top_k_ratio": 0.4, "lambda_logdet": 0.0},
    "whole tail": {"tail_weight": 0.7, "tail_top_k_ratio": 1.0, "lambda_logdet": 0.1},
}
