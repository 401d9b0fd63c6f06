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
