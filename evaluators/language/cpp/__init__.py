"""Translation of heuristics to C++17, with types, ranges and a compiler for the host."""
