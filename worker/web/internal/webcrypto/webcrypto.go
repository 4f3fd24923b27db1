// Package webcrypto is the part of Web Cryptography that works on bytes: digests, ciphers, signatures, key
// agreement, and the formats of keys, over Go's crypto. What the standard says of algorithms' names, usages and
// CryptoKey objects is in the JavaScript of worker/web, which calls Do.
//
// Keys cross the boundary as bytes: symmetric ones as they are, private keys as PKCS #8, public ones as SPKI, both
// DER. So nothing here must be freed when JavaScript forgets a key.
package webcrypto

import (
	"encoding/json"
	"fmt"
)

// Error is a failure by the name that the standard gives it, such as OperationError or DataError.
type Error struct {
	Name, Message string
}

func (e *Error) Error() string { return e.Name + ": " + e.Message }

func failf(name, format string, args ...any) error {
	return &Error{Name: name, Message: fmt.Sprintf(format, args...)}
}

// Params are the parameters of an operation that are no bytes. Each operation reads some of them.
type Params struct {
	Hash       string `json:"hash"`       // SHA-1, SHA-256, SHA-384, SHA-512 or MD5 (digests only)
	Kind       string `json:"kind"`       // of a key: RSA, P-256, P-384, P-521, Ed25519, X25519
	Scheme     string `json:"scheme"`     // of a signature: ECDSA, Ed25519, RSA-PSS, RSASSA-PKCS1-v1_5
	Mode       string `json:"mode"`       // of AES: GCM, CBC, CTR
	Format     string `json:"format"`     // of a key: raw, pkcs8, spki, jwk
	Decrypt    bool   `json:"decrypt"`    // of a cipher
	Bits       int    `json:"bits"`       // to derive; or of a counter, a tag or a modulus
	Exponent   int    `json:"exponent"`   // of RSA
	Iterations int    `json:"iterations"` // of PBKDF2
	SaltLength int    `json:"saltLength"` // of RSA-PSS
}

// Crypto carries out operations for one engine. It keeps a few parsed keys, and is not safe for concurrent use.
type Crypto struct {
	keys map[string]any
}

// New returns a Crypto.
func New() *Crypto {
	return &Crypto{keys: make(map[string]any)}
}

// Do carries out one operation. in are its bytes, in the order that the operation says; the results, too, are
// bytes (or JSON, of JWKs and of what is to be known of a key). An error is an *Error.
func (c *Crypto) Do(op, params string, in ...[]byte) ([][]byte, error) {
	var p Params
	if err := json.Unmarshal([]byte(params), &p); err != nil {
		return nil, failf("TypeError", "the parameters are malformed: %v", err)
	}
	o, ok := operations[op]
	if !ok {
		return nil, failf("NotSupportedError", "unknown operation %q", op)
	}
	if len(in) < o.inputs {
		return nil, failf("TypeError", "%s takes %d inputs, not %d", op, o.inputs, len(in))
	}
	return o.do(c, &p, in)
}

type operation struct {
	inputs int
	do     func(*Crypto, *Params, [][]byte) ([][]byte, error)
}

var operations = map[string]operation{
	"digest":    {1, digest},        // data → digest
	"hmac":      {2, hmacOf},        // key, data → tag
	"aes":       {4, aesCipher},     // key, iv, additional data, data → data
	"aes-kw":    {2, aesWrap},       // key, data → data
	"pbkdf2":    {2, deriveByPBKDF}, // password, salt → bits
	"hkdf":      {3, deriveByHKDF},  // key, salt, info → bits
	"generate":  {0, generate},      // → pkcs8, spki
	"import":    {1, importKey},     // key in a format → pkcs8 (or empty), spki, JSON of KeyInfo
	"export":    {2, exportKey},     // pkcs8 (or empty), spki → key in a format
	"sign":      {2, sign},          // pkcs8, data → signature
	"verify":    {3, verify},        // spki, signature, data → 1 byte: 1 or 0
	"rsa-oaep":  {3, rsaOAEP},       // pkcs8 or spki, label, data → data
	"agree":     {2, agree},         // pkcs8, spki of the other → shared secret
	"hash-more": {2, hashMore},      // state of a digest (or empty), data → state
	"hash-end":  {1, hashEnd},       // state (or empty) → digest
}
