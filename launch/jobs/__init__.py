"""What runs inside a job: stages, staging, requeue decisions."""
