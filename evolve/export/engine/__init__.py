"""Programs of the Triton decode kernel for servers: one file for any engine, and a package for vLLM."""
