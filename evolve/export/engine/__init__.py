"""Programs of the Triton decode kernel for servers: one file for any engine, packages for vLLM and SGLang."""
