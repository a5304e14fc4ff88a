"""Fine-tuning rounds: their triggers, their training set, and the gate that promotes a model."""
