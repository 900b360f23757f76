"""What a transaction means: rules, state, execution, blocks, genesis, proofs."""
