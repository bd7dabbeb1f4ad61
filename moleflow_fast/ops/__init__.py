"""Operations: contract, plain-PyTorch oracle, compiled implementation, gradient and dispatch, one a file."""
