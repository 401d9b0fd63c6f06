package config

// Usage is what --help prints.
const Usage = `quotad counts what your applications use, and refuses what is over the limit.

usage:
  quotad --data DIR [--create] [flags]   keep the counts in DIR/quotad.db
  quotad --dev [flags]                   try it out: counts in memory, then lost

the ledger:
  --data DIR             the directory that keeps the counts
  --create               make the data file if there is none; without it a
                         missing file is an error, as its budgets would be
                         spent a second time
  --max-size SIZE        how large the data file may grow (4GiB)
  --retain DURATION      how long counts of days, weeks, months and years are
                         kept after they end (400d)
  --accept-clock         believe the clock, even if the ledger has seen a later
                         time; for one start, and audited

what is allowed:
  --buckets FILE         declares buckets and their limits; read again when it
                         changes, and on SIGHUP
  --default LIMITS       limits of a name that nobody declared, such as
                         "50 calls/day, 1000 tokens/month", or off (50 calls/day)
  --zone ZONE            where days begin and end, such as Europe/Berlin (UTC)
  --max-undeclared N     how many names that nobody declared may be counted on
                         one day (10000)

where it listens:
  --listen ADDRESS       for gRPC: host:port, unix:///path, or fd://NAME for a
                         socket of systemd; may be given more than once. An
                         address that other machines reach needs TLS and a policy
                         (127.0.0.1:7070)
  --control-listen ADDRESS
                         for looking and changing (InspectService, AdminService);
                         --listen then serves applications alone
  --admin-listen ADDRESS for /metrics, /healthz and /readyz over HTTP, or off
                         (127.0.0.1:7071)
  --admin-remote         let --admin-listen be an address that other machines
                         reach, in the clear
  --probe-listen ADDRESS for gRPC health alone, in the clear, or off (off)
  --socket-mode MODE     of the sockets of --listen: 0600, 0660 or 0666 (0600)
  --socket-group GROUP   the group of those sockets, by name or number
  --addr-file FILE       write the addresses that were bound to FILE, for
                         ports of 0

who may call:
  --policy FILE          who may do what with which buckets, in YAML; all else is
                         denied. Without it whoever reaches quotad may do
                         everything. Read again when it changes
  --tokens FILE          bearer tokens, as quotactl token makes them
  --tls-cert FILE        the certificate for TCP addresses, in PEM, and
  --tls-key FILE         its key; read again when they change
  --tls-client-ca FILE   the CA of the certificates that callers show
  --tls-clients HOW      require such a certificate, or take it as optional
                         (require)

what it tells:
  --thresholds SHARES    at which shares of a limit an event tells that so much
                         is used, or off (80%, 100%)
  --webhook URL          where events are sent, signed with the key in
  --webhook-key FILE     this file
  --otlp-endpoint URL    where traces are sent, by OTLP over gRPC, such as
                         http://127.0.0.1:4317

the process:
  --config FILE          read these settings from a YAML file
  --dev                  print lines to paste; memory if there is no --data
  --log-format FORMAT    text, json, or auto: text on a terminal (auto)
  --log-level LEVEL      debug, info, warn or error (info)
  --drain-timeout DURATION
                         how long calls may take to end at a stop (10s)
  --print-config         print the settings in force and where they come from
  --version              print the version
  --help                 print this

Every flag is an environment variable too, --max-size as QUOTAD_MAX_SIZE, and a
key of the file, max-size. A flag wins over the environment, the environment over
the file. --create, --accept-clock and --config cannot stand in the file.

exit codes: 0 stopped in order; 1 an error; 2 a flag, a setting or the buckets
file is wrong; 74 the disk failed or the data file was replaced.
`
