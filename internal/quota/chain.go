package quota

import "crypto/sha256"

// AuditHash is the hash of an audit record and of the one before it. The zero value is none.
type AuditHash [sha256.Size]byte
