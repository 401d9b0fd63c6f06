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
  --listen ADDRESS       for gRPC: host:port on loopback, or unix:///path; may be
                         given more than once (127.0.0.1:7070)
  --admin-listen ADDRESS for /metrics, /healthz and /readyz, or off
                         (127.0.0.1:7071)
  --addr-file FILE       write the addresses that were bound to FILE, for
                         ports of 0

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
