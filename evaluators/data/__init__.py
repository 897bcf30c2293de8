"""What is judged: shapes, settings, decisions, workloads, evaluations and their statuses."""
