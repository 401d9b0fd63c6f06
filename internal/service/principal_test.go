package service

import (
	"reflect"
	"testing"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

// What a caller changes is changed in the caller's name, whatever the op says; what no caller may change is refused.
func TestInNameOf(t *testing.T) {
	for _, op := range []quota.Op{
		quota.Acquire{RequestID: "id"},
		quota.Settle{RequestID: "id"},
		quota.Release{RequestID: "id"},
		quota.Extend{RequestID: "id"},
		quota.SetBucket{Name: "a"},
		quota.DeleteBucket{Name: "a"},
		quota.ApplySet{Source: quota.SourceAPI},
		quota.SetOverride{Bucket: "a"},
		quota.Reset{Bucket: "a"},
		quota.Acquire{Principal: "mallory"},
		quota.Settle{Principal: "mallory"},
		quota.Release{Principal: "mallory"},
		quota.Extend{Principal: "mallory"},
		quota.Reset{Principal: "mallory"},
	} {
		got, err := inNameOf(auth.Local(), op)
		if err != nil {
			t.Fatal(err)
		}
		want := reflect.New(reflect.TypeOf(op)).Elem()
		want.Set(reflect.ValueOf(op))
		want.FieldByName("Principal").SetString("local")
		if x, ok := got.(quota.Extend); ok {
			if x.May == nil || !x.May("a") {
				t.Errorf("%+v does not ask what its caller may", x)
			}
			x.May = nil // functions are not compared
			got = x
		}
		if !reflect.DeepEqual(got, want.Interface()) {
			t.Errorf("%T became %+v", op, got)
		}
	}
	for _, op := range []quota.Op{nil, quota.Configure{}, quota.Exhaust{}, quota.Note{}, quota.Expire{Max: 1}, quota.Adopt{}} {
		if got, err := inNameOf(auth.Local(), op); err == nil {
			t.Errorf("%T became %+v", op, got)
		}
	}
}

// What a caller may change is asked for by somebody's verb, and what is not told apart is nobody's.
func TestAskedOf(t *testing.T) {
	for _, op := range []quota.Op{nil, quota.Configure{}, quota.Exhaust{}, quota.Note{}, quota.Expire{Max: 1}, quota.Adopt{}} {
		if what, err := askedOf(op); err == nil || authorise(auth.Local(), what) == nil {
			t.Errorf("%T asks for %+v", op, what)
		}
	}
	for _, op := range []quota.Op{
		quota.Acquire{Bucket: "a"},
		quota.Settle{},
		quota.Release{},
		quota.Extend{},
		quota.SetBucket{Name: "a"},
		quota.DeleteBucket{Name: "a"},
		quota.ApplySet{},
		quota.SetOverride{Bucket: "a"},
		quota.Reset{Bucket: "a"},
	} {
		what, err := askedOf(op)
		if err != nil || authorise(auth.Local(), what) != nil || authorise(auth.Principal{}, what) == nil || authorise(auth.Principal{Name: "x"}, what) == nil {
			t.Errorf("%T asks for %+v, %v", op, what, err)
		}
	}
}
