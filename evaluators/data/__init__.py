"""Data of the judge: shapes, settings, decisions, workloads, evaluations and their statuses."""
