"""The admin port: health, readiness, metrics, configuration, models, explanations."""
