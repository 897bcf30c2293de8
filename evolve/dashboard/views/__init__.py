"""Documents that the dashboard's views show, one module each."""
