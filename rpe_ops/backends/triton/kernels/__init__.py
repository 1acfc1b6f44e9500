"""The Triton kernels, one file per operator; Triton's compiler reads them, and nothing else lives here."""
