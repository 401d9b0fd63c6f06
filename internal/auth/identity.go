package auth

// Identity is one thing that a call shows about its caller, as a policy writes it: "token:NAME", "spiffe://DOMAIN/PATH", "dns:HOST",
// "uid:N", "gid:N", or Loopback. The zero value is none.
type Identity string

// Loopback is what everybody shows who comes over plain TCP from this machine: the kernel does not tell who they are.
const Loopback Identity = "loopback"
