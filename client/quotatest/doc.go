// Package quotatest runs a whole quotad inside a test, with a clock that the test sets.
//
// What answers is quotad's own server, service and ledger; only the network is left out. A test declares what it needs, gives the
// client to what it tests, and looks at the counts:
//
//	func TestThumbnail(t *testing.T) {
//		q := quotatest.New(t)
//		q.Declare("thumbnails", "50 calls/day")
//		app := NewApp(q.Client())
//		app.Thumbnail(t.Context(), "cat.png")
//		if used := q.Used("thumbnails", "calls"); used != 1 {
//			t.Errorf("used %d, want 1", used)
//		}
//		q.Advance(24 * time.Hour) // a new day
//	}
//
// A Server may be made inside a bubble of testing/synctest, but Listen must not be called there: whoever waits for a network keeps
// the bubble's time standing still. WithFile works in a bubble, and so does RealTime, which then means the bubble's time. A bubble
// that sleeps for a day wakes its quotad once in each second of it, which takes some seconds; Advance takes none.
package quotatest
