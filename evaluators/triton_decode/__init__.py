"""The decode kernel of `kernels/triton_decode/` as the judge sees it: questions, decisions, launches."""
