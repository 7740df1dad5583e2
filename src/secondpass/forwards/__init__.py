"""How models are computed: the contract, our own forwards without padding, the kernel, and transformers' own."""
