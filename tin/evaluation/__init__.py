"""Tests and predictions of trained models: scores, metrics and fused scores."""
