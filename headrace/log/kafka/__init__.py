"""The log on Kafka. Only the module `client` imports the client library."""
