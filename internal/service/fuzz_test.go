package service_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/store/memengine"
)

// Whatever a request says, the answer is yes, a denial, or a refusal that names what is wrong; never a defect.
func FuzzAcquireRequest(f *testing.F) {
	add := func(m *quotadv1.AcquireRequest) {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	add(&quotadv1.AcquireRequest{Bucket: "portfolio"})
	add(&quotadv1.AcquireRequest{Bucket: "a/b", RequestId: "id", Charges: []*quotadv1.Charge{
		{Unit: "tokens", Amount: new(int64(1e15)), Ceiling: new(int64(0)), CeilingWindow: quotadv1.Window_WINDOW_DAY},
		{Bucket: "a", Ceiling: new(int64(9))},
	}})
	add(&quotadv1.AcquireRequest{Bucket: "a", Hold: durationpb.New(-1)})
	add(&quotadv1.AcquireRequest{Bucket: "..", RequestId: "\n", Charges: []*quotadv1.Charge{{}, {}, {CeilingWindow: -5}}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req quotadv1.AcquireRequest
		if proto.Unmarshal(raw, &req) != nil {
			return
		}
		r := start(t, memengine.New(), fifty)
		defer r.close()
		_, err := r.Acquire(t.Context(), &req)
		switch status.Code(err) {
		case codes.OK, codes.ResourceExhausted, codes.Unimplemented, codes.FailedPrecondition:
		case codes.InvalidArgument:
			if len(fields(err)) == 0 {
				t.Errorf("refused without a field: %v", err)
			}
		default:
			t.Errorf("%v: %v", &req, err)
		}
		check, checkErr := r.Check(t.Context(), &quotadv1.CheckRequest{Bucket: req.GetBucket(), Charges: req.GetCharges()})
		if checkErr == nil && check.GetAllowed() && err == nil && len(check.GetBalances()) == 0 {
			t.Errorf("allowed, and nothing is counted: %v", check)
		}
	})
}
