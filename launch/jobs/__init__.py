"""Code that runs inside a job: stages, staging, and the decision to requeue."""
