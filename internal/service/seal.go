package service

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"

	"github.com/quotad/quotad/internal/quota"
)

// sealer makes page tokens that tell nothing. A token says where a list goes on, and where something is hidden that is the name of a
// bucket, or an id, that its caller must not see. The key is this process's own: after a restart such a list begins anew.
type sealer struct{ aead cipher.AEAD }

// sealedBytes is what a sealed token is rounded up to, so that its length does not tell that of a name.
const sealedBytes = 512

func newSealer() sealer {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: a system without randomness ends the process
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("service: AES takes a key of 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("service: GCM takes AES: " + err.Error())
	}
	return sealer{aead}
}

// seal returns a token of one list of one caller.
func (s sealer) seal(list, token string) string {
	if token == "" {
		return ""
	}
	plain := binary.BigEndian.AppendUint32(nil, uint32(len(token))) //nolint:gosec // a few hundred bytes
	plain = append(plain, token...)
	plain = append(plain, make([]byte, -len(plain)&(sealedBytes-1))...)
	box := s.aead.Seal(nil, nil, plain, []byte(list)) //nolint:gosec // it makes a random nonce by itself, and wants none
	return base64.RawURLEncoding.EncodeToString(box)
}

// open returns what was sealed for the same list of the same caller; false for anything else.
func (s sealer) open(list, sealed string) (string, bool) {
	if sealed == "" {
		return "", true
	}
	box, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return "", false
	}
	plain, err := s.aead.Open(nil, nil, box, []byte(list))
	if err != nil || len(plain) < 4 {
		return "", false
	}
	n := binary.BigEndian.Uint32(plain)
	if plain = plain[4:]; uint64(n) > uint64(len(plain)) {
		return "", false
	}
	return string(plain[:n]), true
}

// after returns where a list goes on; what is no token of this list of this caller's is noted as a problem.
func (s sight) after(ps *quota.Problems, hidden bool, list, token string) string {
	if !hidden {
		return token
	}
	position, ok := s.s.tokens.open(list+"\x00"+s.who.Name, token)
	if !ok {
		ps.Add("page_token", "is not one of yours for this list, or quotad was started anew since; leave it out to begin again")
	}
	return position
}

// next returns the token of the page that follows.
func (s sight) next(hidden bool, list, position string) string {
	if !hidden {
		return position
	}
	return s.s.tokens.seal(list+"\x00"+s.who.Name, position)
}
