"""Traffic of a server: traces of requests, the decode batches that they cause, and weights of recorded shapes."""
