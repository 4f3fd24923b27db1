package webcrypto

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
)

const (
	// Parsed keys that a Crypto keeps.
	keysMax = 64
	// Bits of a modulus: making a longer one, or computing with it, would hold the engine for seconds.
	modulusBitsMin, modulusBitsMax = 1024, 4096
)

// KeyInfo is what is to be known of an imported key.
type KeyInfo struct {
	Kind          string `json:"kind"`
	Private       bool   `json:"private"`
	ModulusLength int    `json:"modulusLength,omitempty"`
	Exponent      int    `json:"exponent,omitempty"`
}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func dataError(err error) error {
	return failf("DataError", "the key is malformed: %v", err)
}

// private is the key of a PKCS #8 structure: *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey or
// *ecdh.PrivateKey.
func (c *Crypto) private(der []byte) (any, error) {
	return c.cached("private "+string(der), func() (any, error) { return x509.ParsePKCS8PrivateKey(der) })
}

// public is the key of a SubjectPublicKeyInfo.
func (c *Crypto) public(der []byte) (any, error) {
	return c.cached("public "+string(der), func() (any, error) { return x509.ParsePKIXPublicKey(der) })
}

func (c *Crypto) cached(id string, parse func() (any, error)) (any, error) {
	if key, ok := c.keys[id]; ok {
		return key, nil
	}
	key, err := parse()
	if err != nil {
		return nil, dataError(err)
	}
	if len(c.keys) >= keysMax {
		clear(c.keys)
	}
	c.keys[id] = key
	return key, nil
}

func generate(_ *Crypto, p *Params, _ [][]byte) ([][]byte, error) {
	key, err := newKey(p)
	if err != nil {
		return nil, err
	}
	return pair(key)
}

func newKey(p *Params) (any, error) {
	switch p.Kind {
	case "RSA":
		switch {
		case p.Bits < modulusBitsMin || p.Bits > modulusBitsMax || p.Bits%8 != 0:
			return nil, failf("OperationError", "modulusLength must be a multiple of 8 from %d to %d", modulusBitsMin, modulusBitsMax)
		case p.Exponent != 65537:
			return nil, failf("OperationError", "publicExponent must be 65537")
		}
		return rsa.GenerateKey(rand.Reader, p.Bits)
	case "Ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "X25519":
		return ecdh.X25519().GenerateKey(rand.Reader)
	}
	curve, ok := curves[p.Kind]
	if !ok {
		return nil, failf("NotSupportedError", "unknown kind %q of keys", p.Kind)
	}
	return ecdsa.GenerateKey(curve, rand.Reader)
}

// pair is a private key as PKCS #8, and its public key as SPKI.
func pair(key any) ([][]byte, error) {
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, dataError(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(publicOf(key))
	if err != nil {
		return nil, dataError(err)
	}
	return [][]byte{p8, spki}, nil
}

func publicOf(key any) any {
	if k, ok := key.(interface{ Public() crypto.PublicKey }); ok {
		return k.Public()
	}
	return key
}

// importKey reads a key. A key of another kind than asked for is a DataError.
func importKey(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	key, err := parseKey(p, in[0])
	if err != nil {
		return nil, err
	}
	_, private := key.(interface{ Public() crypto.PublicKey })
	info := KeyInfo{Kind: kindOf(key), Private: private}
	if info.Kind != p.Kind {
		return nil, failf("DataError", "the key is one of %s, not of %s", info.Kind, p.Kind)
	}
	if k, ok := publicOf(key).(*rsa.PublicKey); ok {
		info.ModulusLength, info.Exponent = k.N.BitLen(), k.E
		if info.ModulusLength < modulusBitsMin || info.ModulusLength > modulusBitsMax {
			return nil, failf("DataError", "the modulus has %d bits; from %d to %d are supported", info.ModulusLength, modulusBitsMin, modulusBitsMax)
		}
	}
	text, err := json.Marshal(info)
	if err != nil {
		return nil, dataError(err)
	}
	if info.Private {
		out, err := pair(key)
		return append(out, text), err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, dataError(err)
	}
	return [][]byte{{}, spki, text}, nil
}

func kindOf(key any) string {
	switch k := publicOf(key).(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	case *ecdh.PublicKey:
		return "X25519"
	default:
		return "an unknown kind"
	}
}

func parseKey(p *Params, in []byte) (key any, err error) {
	switch p.Format {
	case "pkcs8":
		key, err = x509.ParsePKCS8PrivateKey(in)
	case "spki":
		key, err = x509.ParsePKIXPublicKey(in)
	case "jwk":
		return parseJWK(p, in)
	case "raw":
		key, err = parseRaw(p, in)
	default:
		return nil, failf("NotSupportedError", "unknown format %q of keys", p.Format)
	}
	if err != nil {
		return nil, dataError(err)
	}
	return key, nil
}

// parseRaw reads a public key as its point or bytes.
func parseRaw(p *Params, in []byte) (any, error) {
	switch p.Kind {
	case "Ed25519":
		if len(in) != ed25519.PublicKeySize {
			return nil, failf("DataError", "a raw key of Ed25519 has %d bytes, not %d", ed25519.PublicKeySize, len(in))
		}
		return ed25519.PublicKey(in), nil
	case "X25519":
		return ecdh.X25519().NewPublicKey(in)
	}
	curve, ok := curves[p.Kind]
	if !ok {
		return nil, failf("NotSupportedError", "keys of %s have no raw format", p.Kind)
	}
	if len(in) > 0 && (in[0] == 2 || in[0] == 3) {
		x, y := elliptic.UnmarshalCompressed(curve, in)
		if x == nil {
			return nil, failf("DataError", "the compressed point is not on the curve")
		}
		size := (curve.Params().BitSize + 7) / 8
		in = slices.Concat([]byte{4}, x.FillBytes(make([]byte, size)), y.FillBytes(make([]byte, size)))
	}
	return ecdsa.ParseUncompressedPublicKey(curve, in)
}

// jwk is a JSON Web Key: the members of RFC 7518 that are part of the key.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	D   string `json:"d,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	P   string `json:"p,omitempty"`
	Q   string `json:"q,omitempty"`
	DP  string `json:"dp,omitempty"`
	DQ  string `json:"dq,omitempty"`
	QI  string `json:"qi,omitempty"`
}

func parseJWK(p *Params, in []byte) (any, error) {
	var k jwk
	if err := json.Unmarshal(in, &k); err != nil {
		return nil, dataError(err)
	}
	var key any
	var err error
	switch {
	case k.Kty == "RSA" && p.Kind == "RSA":
		key, err = k.rsa()
	case k.Kty == "EC" && k.Crv == p.Kind && curves[p.Kind] != nil:
		key, err = k.ec(curves[p.Kind])
	case k.Kty == "OKP" && k.Crv == p.Kind:
		key, err = k.okp()
	default:
		return nil, failf("DataError", "the JWK is a key of kty %q and crv %q, which does not fit %s", k.Kty, k.Crv, p.Kind)
	}
	if err != nil {
		return nil, dataError(err)
	}
	return key, nil
}

func unbase64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

func number(s string) (*big.Int, error) {
	b, err := unbase64(s)
	return new(big.Int).SetBytes(b), err
}

func (k *jwk) rsa() (any, error) {
	n, err := number(k.N)
	if err != nil {
		return nil, err
	}
	e, err := number(k.E)
	if err != nil {
		return nil, err
	}
	if n.Sign() == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
		return nil, failf("DataError", "n or e is missing or out of range")
	}
	public := rsa.PublicKey{N: n, E: int(e.Int64())}
	if k.D == "" {
		return &public, nil
	}
	key := &rsa.PrivateKey{PublicKey: public}
	if key.D, err = number(k.D); err != nil {
		return nil, err
	}
	for _, s := range []string{k.P, k.Q} {
		prime, err := number(s)
		if err != nil {
			return nil, err
		}
		if prime.Sign() == 0 {
			return nil, failf("DataError", "a private key of RSA needs its primes p and q")
		}
		key.Primes = append(key.Primes, prime)
	}
	key.Precompute()
	return key, key.Validate()
}

func (k *jwk) ec(curve elliptic.Curve) (any, error) {
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4}
	for _, s := range []string{k.X, k.Y} {
		b, err := unbase64(s)
		if err != nil {
			return nil, err
		}
		if len(b) != size {
			return nil, failf("DataError", "x and y have %d bytes on this curve, not %d", size, len(b))
		}
		point = append(point, b...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil || k.D == "" {
		return public, err
	}
	d, err := unbase64(k.D)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseRawPrivateKey(curve, d)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(public) {
		return nil, failf("DataError", "x and y are not the public key of d")
	}
	return key, nil
}

func (k *jwk) okp() (any, error) {
	x, err := unbase64(k.X)
	if err != nil {
		return nil, err
	}
	d, err := unbase64(k.D)
	if err != nil {
		return nil, err
	}
	switch {
	case len(x) != 32 || (len(d) != 0 && len(d) != 32):
		return nil, failf("DataError", "x and d have 32 bytes")
	case k.Crv == "X25519" && len(d) == 0:
		return ecdh.X25519().NewPublicKey(x)
	case k.Crv == "X25519":
		return ecdh.X25519().NewPrivateKey(d)
	case len(d) == 0:
		return ed25519.PublicKey(x), nil
	default:
		return ed25519.NewKeyFromSeed(d), nil
	}
}

// exportKey writes a key: a private one if its PKCS #8 is given.
func exportKey(c *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	switch p.Format {
	case "pkcs8":
		return one(in[0], nil)
	case "spki":
		return one(in[1], nil)
	}
	key, err := c.public(in[1])
	if len(in[0]) > 0 {
		key, err = c.private(in[0])
	}
	if err != nil {
		return nil, err
	}
	if p.Format == "jwk" {
		k, err := jwkOf(key)
		if err != nil {
			return nil, err
		}
		return one(json.Marshal(k))
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return one(k, nil)
	case *ecdh.PublicKey:
		return one(k.Bytes(), nil)
	case *ecdsa.PublicKey:
		return one(k.Bytes())
	default:
		return nil, failf("InvalidAccessError", "this key has no raw format")
	}
}

func jwkOf(key any) (*jwk, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case *rsa.PublicKey:
		return &jwk{Kty: "RSA", N: b64(k.N.Bytes()), E: b64(big.NewInt(int64(k.E)).Bytes())}, nil
	case *rsa.PrivateKey:
		out, err := jwkOf(&k.PublicKey)
		if err != nil || len(k.Primes) != 2 {
			return nil, failf("OperationError", "a key with %d primes has no JWK", len(k.Primes))
		}
		k.Precompute()
		out.D, out.P, out.Q = b64(k.D.Bytes()), b64(k.Primes[0].Bytes()), b64(k.Primes[1].Bytes())
		out.DP, out.DQ, out.QI = b64(k.Precomputed.Dp.Bytes()), b64(k.Precomputed.Dq.Bytes()), b64(k.Precomputed.Qinv.Bytes())
		return out, nil
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			return nil, dataError(err)
		}
		half := len(point) / 2
		return &jwk{Kty: "EC", Crv: k.Curve.Params().Name, X: b64(point[1 : 1+half]), Y: b64(point[1+half:])}, nil
	case *ecdsa.PrivateKey:
		out, err := jwkOf(&k.PublicKey)
		if err != nil {
			return nil, err
		}
		d, err := k.Bytes()
		if err != nil {
			return nil, dataError(err)
		}
		out.D = b64(d)
		return out, nil
	case ed25519.PublicKey:
		return &jwk{Kty: "OKP", Crv: "Ed25519", X: b64(k)}, nil
	case ed25519.PrivateKey:
		return &jwk{Kty: "OKP", Crv: "Ed25519", X: b64(k[32:]), D: b64(k.Seed())}, nil
	case *ecdh.PublicKey:
		return &jwk{Kty: "OKP", Crv: "X25519", X: b64(k.Bytes())}, nil
	case *ecdh.PrivateKey:
		return &jwk{Kty: "OKP", Crv: "X25519", X: b64(k.PublicKey().Bytes()), D: b64(k.Bytes())}, nil
	default:
		return nil, failf("NotSupportedError", "a %T has no JWK", key)
	}
}
