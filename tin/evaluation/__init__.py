"""Tests and predictions of trained models, their scores and metrics."""
