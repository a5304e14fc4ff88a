#!/bin/sh
exec /opt/java/bin/java -cp '/opt/kafka/libs/*' -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    org.apache.kafka.tools.BrokerApiVersionsCommand "$@"
