#!/usr/bin/env bash
# A private Apache Kafka broker (KRaft, one node) for tests and benches, in a folder and on ports of its own.
#
#   kafka.sh install            fetches the jars from Maven Central
#   kafka.sh start              starts the broker and prints its address
#   kafka.sh stop               stops it in order
#   kafka.sh kill               SIGKILL
#   kafka.sh wipe               kills it and forgets its data
#   kafka.sh status             tells whether it runs
#   kafka.sh topic NAME N       makes a topic with N partitions
#   kafka.sh tool CLASS ARG...  runs one of Kafka's own tools
#
# HEADWATER_SERVICES names the folder (default: ~/.cache/headwater/services), HEADWATER_KAFKA_PORT the port (19092; the controller
# has the next one). Brokers on different ports have data of their own.
set -euo pipefail

version=4.3.1
port=${HEADWATER_KAFKA_PORT:-19092}
controller=$((port + 1))
home=$HOME/.cache/headwater/kafka-$version
data=${HEADWATER_SERVICES:-$HOME/.cache/headwater/services}/kafka-$port
java=(java -XX:+UseSerialGC "-Dlog4j2.configurationFile=file:$home/log4j2.xml")

running() { [ -e "$data/pid" ] && kill -0 "$(cat "$data/pid")" 2>/dev/null && grep -q kafka.Kafka "/proc/$(cat "$data/pid")/cmdline"; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Waits until the broker has said that it runs; its port alone is open earlier.
wait_until_up() {
  for _ in $(seq 600); do
    if ! running; then
      echo "the broker stopped:" >&2
      tail -30 "$data/log" >&2
      return 1
    fi
    if grep -q 'Kafka Server started' "$data/log" && answers "$port"; then return 0; fi
    sleep 0.1
  done
  echo "the broker does not come up:" >&2
  tail -30 "$data/log" >&2
  return 1
}

install() {
  if [ -e "$home/installed" ]; then return; fi
  echo "==> fetching Kafka $version from Maven Central into $home" >&2
  mkdir -p "$home"
  cat >"$home/pom.xml" <<E
<project><modelVersion>4.0.0</modelVersion>
 <groupId>local</groupId><artifactId>kafka-dist</artifactId><version>1</version><packaging>pom</packaging><dependencies>
 <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
 <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
 <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.1</version></dependency>
</dependencies></project>
E
  (cd "$home" && timeout 500 mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory=lib >&2)
  cat >"$home/log4j2.xml" <<'E'
<Configuration status="WARN"><Appenders><Console name="c" target="SYSTEM_ERR"><PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="c"/></Root><Logger name="kafka" level="INFO"/></Loggers></Configuration>
E
  touch "$home/installed"
}

# The first start in a folder formats it; the first of all leaves an archive of loaded classes that halves later starts.
start() {
  install
  if running; then
    wait_until_up
    echo "127.0.0.1:$port"
    return
  fi
  if answers "$port"; then
    echo "port $port is taken by somebody else" >&2
    exit 1
  fi
  mkdir -p "$data"
  cat >"$data/server.properties" <<E
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$data/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
E
  if [ ! -e "$data/data/meta.properties" ]; then
    "${java[@]}" -XX:TieredStopAtLevel=1 -cp "$home/lib/*" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw \
      -c "$data/server.properties" >"$data/format.log" 2>&1 || { cat "$data/format.log" >&2; exit 1; }
  fi
  local classes=() archive
  archive=$home/classes-$("${java[0]}" -version 2>&1 | sha256sum | cut -c1-12).jsa
  if [ -e "$archive" ]; then classes=(-XX:SharedArchiveFile="$archive"); else classes=(-XX:ArchiveClassesAtExit="$archive"); fi
  : >"$data/log"
  # A session of its own: it outlives whoever starts it, and a Ctrl-C there is not meant for it.
  setsid "${java[@]}" "${classes[@]}" -Xms256m -Xmx512m -cp "$home/lib/*" kafka.Kafka "$data/server.properties" \
    >>"$data/log" 2>&1 </dev/null &
  echo $! >"$data/pid"
  wait_until_up
  echo "127.0.0.1:$port"
}

# A process that ends gives its memory back before its port.
gone() {
  for _ in $(seq 300); do
    running || answers "$port" || { rm -f "$data/pid"; return 0; }
    sleep 0.1
  done
  return 1
}

kill_now() {
  running || return 0
  kill -9 "$(cat "$data/pid")"
  gone
}

stop() {
  running || return 0
  kill "$(cat "$data/pid")"
  gone || kill_now
}

case "${1:-}" in
  install) install ;;
  start) start ;;
  stop) stop ;;
  kill) kill_now ;;
  wipe) kill_now && rm -rf "$data" ;;
  status) if running; then echo "127.0.0.1:$port"; else echo "not running"; exit 1; fi ;;
  topic)
    "${java[@]}" -XX:TieredStopAtLevel=1 -cp "$home/lib/*" org.apache.kafka.tools.TopicCommand \
      --bootstrap-server "127.0.0.1:$port" --create --topic "$2" --partitions "$3"
    ;;
  tool) shift && exec "${java[@]}" -XX:TieredStopAtLevel=1 -cp "$home/lib/*" "$@" ;;
  *) sed -n '2,14p' "$0" >&2; exit 2 ;;
esac
