"""Autograd, once for all backends: per operator its `torch.library` ops and the `torch.autograd.Function` over them.

The backend's name comes resolved from above and travels as a plain string; backward uses the forward's backend.
"""
