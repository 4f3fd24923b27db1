package webcrypto

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
)

// digested hashes the data of a signature.
func (p *Params) digested(data []byte) (crypto.Hash, []byte, error) {
	h, err := p.hash()
	if err != nil {
		return 0, nil, err
	}
	d := h.New()
	d.Write(data)
	return h, d.Sum(nil), nil
}

// pss are the options of RSA-PSS. Go reads a salt of no bytes as a choice of its own.
func (p *Params) pss() (*rsa.PSSOptions, error) {
	if p.Scheme == "RSA-PSS" && p.SaltLength <= 0 {
		return nil, failf("NotSupportedError", "RSA-PSS without a salt is not supported: use a saltLength of the length of the hash")
	}
	return &rsa.PSSOptions{SaltLength: p.SaltLength}, nil
}

func sign(c *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	key, err := c.private(in[0])
	if err != nil {
		return nil, err
	}
	if k, ok := key.(ed25519.PrivateKey); ok && p.Scheme == "Ed25519" {
		return one(ed25519.Sign(k, in[1]), nil)
	}
	h, sum, err := p.digested(in[1])
	if err != nil {
		return nil, err
	}
	pss, err := p.pss()
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			return nil, failf("OperationError", "%v", err)
		}
		// Both numbers in the length of the curve, as IEEE P1363 has it.
		size := (k.Curve.Params().BitSize + 7) / 8
		return one(append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), nil)
	case *rsa.PrivateKey:
		if p.Scheme == "RSA-PSS" {
			return one(rsa.SignPSS(rand.Reader, k, h, sum, pss))
		}
		return one(rsa.SignPKCS1v15(rand.Reader, k, h, sum))
	default:
		return nil, failf("InvalidAccessError", "the key does not sign by %s", p.Scheme)
	}
}

func verify(c *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	signature, data := in[1], in[2]
	key, err := c.public(in[0])
	if err != nil {
		return nil, err
	}
	answer := func(ok bool) ([][]byte, error) {
		if ok {
			return [][]byte{{1}}, nil
		}
		return [][]byte{{0}}, nil
	}
	if k, ok := key.(ed25519.PublicKey); ok && p.Scheme == "Ed25519" {
		return answer(ed25519.Verify(k, data, signature))
	}
	h, sum, err := p.digested(data)
	if err != nil {
		return nil, err
	}
	pss, err := p.pss()
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return answer(false)
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return answer(ecdsa.Verify(k, sum, r, s))
	case *rsa.PublicKey:
		if p.Scheme == "RSA-PSS" {
			return answer(rsa.VerifyPSS(k, h, sum, signature, pss) == nil)
		}
		return answer(rsa.VerifyPKCS1v15(k, h, sum, signature) == nil)
	default:
		return nil, failf("InvalidAccessError", "the key does not verify by %s", p.Scheme)
	}
}

func rsaOAEP(c *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	label, data := in[1], in[2]
	h, err := p.hash()
	if err != nil {
		return nil, err
	}
	if p.Decrypt {
		key, err := c.private(in[0])
		if err != nil {
			return nil, err
		}
		k, ok := key.(*rsa.PrivateKey)
		if !ok {
			return nil, failf("InvalidAccessError", "the key is none of RSA")
		}
		return one(rsa.DecryptOAEP(h.New(), nil, k, data, label))
	}
	key, err := c.public(in[0])
	if err != nil {
		return nil, err
	}
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, failf("InvalidAccessError", "the key is none of RSA")
	}
	return one(rsa.EncryptOAEP(h.New(), rand.Reader, k, data, label))
}

// agree is Diffie-Hellman on a curve.
func agree(c *Crypto, _ *Params, in [][]byte) ([][]byte, error) {
	private, err := c.private(in[0])
	if err != nil {
		return nil, err
	}
	public, err := c.public(in[1])
	if err != nil {
		return nil, err
	}
	mine, err := ecdhPrivate(private)
	if err != nil {
		return nil, err
	}
	theirs, err := ecdhPublic(public)
	if err != nil {
		return nil, err
	}
	if mine.Curve() != theirs.Curve() {
		return nil, failf("InvalidAccessError", "the keys are on different curves")
	}
	return one(mine.ECDH(theirs))
}

func ecdhPrivate(key any) (*ecdh.PrivateKey, error) {
	switch k := key.(type) {
	case *ecdh.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k.ECDH()
	default:
		return nil, failf("InvalidAccessError", "the key is not one of a curve")
	}
}

func ecdhPublic(key any) (*ecdh.PublicKey, error) {
	switch k := key.(type) {
	case *ecdh.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		return k.ECDH()
	default:
		return nil, failf("InvalidAccessError", "the key is not one of a curve")
	}
}
