"""Documents of the dashboard's views, one module each."""
