package window

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxZones is how many zones LoadZone keeps; the database has about 600 names.
const maxZones = 2048

// zones holds every zone that LoadZone has answered, so that one name has one
// pointer and the database is read once for it.
var zones struct {
	sync.Mutex
	byName map[string]*time.Location
}

// LoadZone returns the time zone with that name of the IANA database; the empty
// name is UTC. The same name gives the same pointer. "Local" is refused, because
// what it means depends on the machine. The error names the zone and gives an
// example. LoadZone is safe for concurrent use.
func LoadZone(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if name == "Local" {
		return nil, fmt.Errorf(`time zone "Local" means another zone on every machine: want a name such as "Europe/Berlin", or "UTC"`)
	}
	// Some machines keep these two trees beside the names. Clocks of the first
	// count leap seconds, which is not the time that callers have.
	if strings.HasPrefix(name, "right/") || strings.HasPrefix(name, "posix/") {
		return nil, fmt.Errorf("unknown time zone %.60q: want the name without its first part, such as %q", name, "Europe/Berlin")
	}
	zones.Lock()
	defer zones.Unlock()
	if zone := zones.byName[name]; zone != nil {
		return zone, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("unknown time zone %.60q: want a name of the IANA database such as %q, or %q", name, "Europe/Berlin", "UTC")
	}
	if zones.byName == nil {
		zones.byName = make(map[string]*time.Location)
	}
	if len(zones.byName) < maxZones {
		zones.byName[name] = zone
	}
	return zone, nil
}
