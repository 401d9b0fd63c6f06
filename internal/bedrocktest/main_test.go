package bedrocktest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/quotad/quotad/internal/bedrocktest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(bedrocktest.BidirectionalLeak))
}
