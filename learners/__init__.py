"""Pure learners: no broker, no web, no clock, no environment."""
