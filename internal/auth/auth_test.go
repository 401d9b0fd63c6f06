package auth_test

import (
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/auth"
)

var (
	local   = auth.Local()
	nobody  = auth.Principal{}
	mallory = auth.Principal{Name: "mallory"}
)

func TestAllow(t *testing.T) {
	table := auth.Methods()
	for _, c := range []struct {
		who    auth.Principal
		method string
		want   bool
	}{
		{local, "/quotad.v1.QuotaService/Acquire", true},
		{local, "/quotad.v1.InspectService/WatchUsage", true},
		{local, "/quotad.v1.AdminService/Backup", true},
		{local, "/grpc.health.v1.Health/Check", true},

		{local, "", false},
		{local, "/", false},
		{local, "/quotad.v1.QuotaService/", false},
		{local, "/quotad.v1.QuotaService/Anything", false},
		{local, "quotad.v1.QuotaService/Acquire", false},
		{local, "/quotad.v1.QuotaService/acquire", false},
		{local, "/quotad.v2.QuotaService/Acquire", false},

		{mallory, "/quotad.v1.QuotaService/Acquire", false},
		{mallory, "/quotad.v1.QuotaService/Anything", false},
		{mallory, "/grpc.health.v1.Health/Check", true},
	} {
		err := table.Allow(c.who, c.method)
		if c.want != (err == nil) {
			t.Errorf("%q calls %q: %v", c.who.Name, c.method, err)
		}
		if err != nil && !strings.HasSuffix(err.Error(), "may call "+c.method) && !strings.HasSuffix(err.Error(), "may not call "+c.method) {
			t.Errorf("the refusal does not name %q: %v", c.method, err)
		}
	}
}

// Nobody, and whoever is not known, gets at nothing of quotad's own; an empty table is closed to all.
func TestDenied(t *testing.T) {
	own := 0
	for method := range auth.Methods() {
		if !strings.HasPrefix(method, "/quotad.") {
			continue
		}
		own++
		for _, who := range []auth.Principal{nobody, mallory, {Name: "Local"}, {Name: "local "}} {
			if auth.Methods().Allow(who, method) == nil {
				t.Errorf("%q may call %s", who.Name, method)
			}
		}
		if auth.Methods().Allow(local, method) != nil {
			t.Errorf("%q may not call %s", local.Name, method)
		}
		for _, empty := range []auth.Table{nil, {}} {
			if empty.Allow(local, method) == nil {
				t.Errorf("an empty table lets %s be called", method)
			}
		}
	}
	if own == 0 {
		t.Error("the table has no method of quotad's own")
	}
}

func TestContext(t *testing.T) {
	if who, ok := auth.FromContext(t.Context()); ok || who != nobody {
		t.Errorf("a bare context says %q, %v", who.Name, ok)
	}
	outer := auth.NewContext(t.Context(), mallory)
	inner := auth.NewContext(outer, local)
	if who, ok := auth.FromContext(outer); !ok || who != mallory {
		t.Errorf("%q, %v, want mallory", who.Name, ok)
	}
	if who, ok := auth.FromContext(inner); !ok || who != local {
		t.Errorf("%q, %v, want the inner one, local", who.Name, ok)
	}
	if who, ok := auth.FromContext(auth.NewContext(inner, nobody)); !ok || who != nobody {
		t.Errorf("%q, %v, want nobody, who was put there", who.Name, ok)
	}
}
