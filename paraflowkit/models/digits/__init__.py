"""The shipped class-conditional digit networks: data, training, classifier and adapters."""
