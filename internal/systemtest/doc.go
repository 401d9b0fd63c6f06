// Package systemtest proves what only whole processes can show: the real daemon on real files and sockets, killed, stopped,
// crowded and cut off while clients depend on its answers. It holds tests alone. QUOTAD_SEED replays a run, QUOTAD_LONG=1
// makes it longer.
package systemtest
