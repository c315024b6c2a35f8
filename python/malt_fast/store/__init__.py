"""The store: sampled outputs on disk, by a hash of everything they depend on."""
