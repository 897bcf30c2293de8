"""An agent as variation operator: one expedition per proposal, with tools, a budget and a gate."""
