package webcrypto

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	_ "crypto/md5" //nolint:gosec // Workers have it for digests of old protocols.
	"crypto/pbkdf2"
	_ "crypto/sha1" //nolint:gosec // The standard asks for it.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"errors"
	"hash"
	"math/big"
)

const (
	// PBKDF2 keeps the engine to itself: the limit of Workers.
	pbkdf2IterationsMax = 100_000
	// Bytes that a key derivation gives.
	derivedBytesMax = 1 << 20
)

var hashes = map[string]crypto.Hash{
	"MD5": crypto.MD5, "SHA-1": crypto.SHA1, "SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512,
}

func (p *Params) hash() (crypto.Hash, error) {
	h, ok := hashes[p.Hash]
	if !ok {
		return 0, failf("NotSupportedError", "unknown hash %q", p.Hash)
	}
	return h, nil
}

func one(b []byte, err error) ([][]byte, error) {
	var named *Error
	switch {
	case err == nil:
		return [][]byte{b}, nil
	case errors.As(err, &named):
		return nil, err
	default:
		return nil, failf("OperationError", "%v", err)
	}
}

func digest(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	h, err := p.hash()
	if err != nil {
		return nil, err
	}
	d := h.New()
	d.Write(in[0])
	return one(d.Sum(nil), nil)
}

// hashMore and hashEnd are a digest in steps, whose state lives in JavaScript.
func hashMore(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	d, err := p.resume(in[0])
	if err != nil {
		return nil, err
	}
	d.Write(in[1])
	m, ok := d.(encoding.BinaryMarshaler)
	if !ok {
		return nil, failf("NotSupportedError", "%s cannot be computed in steps", p.Hash)
	}
	return one(m.MarshalBinary())
}

func hashEnd(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	d, err := p.resume(in[0])
	if err != nil {
		return nil, err
	}
	return one(d.Sum(nil), nil)
}

func (p *Params) resume(state []byte) (hash.Hash, error) {
	h, err := p.hash()
	if err != nil {
		return nil, err
	}
	d := h.New()
	if len(state) == 0 {
		return d, nil
	}
	u, ok := d.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, failf("NotSupportedError", "%s cannot be computed in steps", p.Hash)
	}
	if err := u.UnmarshalBinary(state); err != nil {
		return nil, failf("OperationError", "%v", err)
	}
	return d, nil
}

func hmacOf(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	h, err := p.hash()
	if err != nil {
		return nil, err
	}
	m := hmac.New(h.New, in[0])
	m.Write(in[1])
	return one(m.Sum(nil), nil)
}

func deriveByPBKDF(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	h, err := p.hash()
	switch {
	case err != nil:
		return nil, err
	case p.Iterations < 1:
		return nil, failf("OperationError", "PBKDF2 needs at least 1 iteration")
	case p.Iterations > pbkdf2IterationsMax:
		return nil, failf("NotSupportedError", "Pbkdf2 failed: iteration counts above %d are not supported (requested %d).", pbkdf2IterationsMax, p.Iterations)
	}
	n, err := p.derivedBytes(derivedBytesMax)
	if err != nil {
		return nil, err
	}
	// Each block of output costs all the iterations.
	if blocks := (n + h.Size() - 1) / h.Size(); blocks*p.Iterations > 16*pbkdf2IterationsMax {
		return nil, failf("NotSupportedError", "Pbkdf2 failed: %d bits by %d iterations are too much work; derive fewer bits", p.Bits, p.Iterations)
	}
	return one(pbkdf2.Key(h.New, string(in[0]), in[1], p.Iterations, n))
}

func deriveByHKDF(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	h, err := p.hash()
	if err != nil {
		return nil, err
	}
	n, err := p.derivedBytes(255 * h.Size())
	if err != nil {
		return nil, err
	}
	return one(hkdf.Key(h.New, in[0], in[1], string(in[2]), n))
}

func (p *Params) derivedBytes(limit int) (int, error) {
	if p.Bits < 0 || p.Bits%8 != 0 || p.Bits/8 > limit {
		return 0, failf("OperationError", "the length must be a multiple of 8 bits, and at most %d", limit*8)
	}
	return p.Bits / 8, nil
}

func aesCipher(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	key, iv, additional, data := in[0], in[1], in[2], in[3]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, failf("OperationError", "%v", err)
	}
	switch p.Mode {
	case "GCM":
		return gcm(block, p, iv, additional, data)
	case "CBC":
		return cbc(block, p, iv, data)
	case "CTR":
		return ctr(block, p, iv, data)
	default:
		return nil, failf("NotSupportedError", "unknown mode %q of AES", p.Mode)
	}
}

func gcm(block cipher.Block, p *Params, iv, additional, data []byte) ([][]byte, error) {
	var a cipher.AEAD
	var err error
	switch {
	case len(iv) == 0:
		return nil, failf("OperationError", "the iv is empty")
	case p.Bits == 128:
		a, err = cipher.NewGCMWithNonceSize(block, len(iv))
	case len(iv) == 12 && p.Bits >= 96:
		a, err = cipher.NewGCMWithTagSize(block, p.Bits/8)
	default:
		return nil, failf("NotSupportedError", "AES-GCM with a tag of %d bits and an iv of %d bytes is not supported: use a tag of 128 bits, or of at least 96 with an iv of 12 bytes", p.Bits, len(iv))
	}
	if err != nil {
		return nil, failf("OperationError", "%v", err)
	}
	if !p.Decrypt {
		return one(a.Seal(nil, iv, data, additional), nil)
	}
	if len(data) < p.Bits/8 {
		return nil, failf("OperationError", "the ciphertext is shorter than its tag")
	}
	out, err := a.Open(nil, iv, data, additional)
	if err != nil {
		return nil, failf("OperationError", "decryption failed: the ciphertext, its tag, the iv or the additional data is wrong")
	}
	return one(out, nil)
}

func cbc(block cipher.Block, p *Params, iv, data []byte) ([][]byte, error) {
	const size = aes.BlockSize
	if len(iv) != size {
		return nil, failf("OperationError", "the iv of AES-CBC has %d bytes, not %d", size, len(iv))
	}
	if !p.Decrypt {
		pad := size - len(data)%size
		out := append(bytes.Clone(data), bytes.Repeat([]byte{byte(pad)}, pad)...)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
		return one(out, nil)
	}
	if len(data) == 0 || len(data)%size != 0 {
		return nil, failf("OperationError", "the ciphertext is not a multiple of %d bytes", size)
	}
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, data)
	pad := int(out[len(out)-1])
	if pad < 1 || pad > size || !bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, failf("OperationError", "decryption failed")
	}
	return one(out[:len(out)-pad], nil)
}

// ctr counts in the last p.Bits bits of the counter block only, where Go's counter carries into all of it.
func ctr(block cipher.Block, p *Params, counter, data []byte) ([][]byte, error) {
	const size = aes.BlockSize
	if len(counter) != size || p.Bits < 1 || p.Bits > 128 {
		return nil, failf("OperationError", "AES-CTR needs a counter of %d bytes and a length from 1 to 128", size)
	}
	wrap := new(big.Int).Lsh(big.NewInt(1), uint(p.Bits))
	start := new(big.Int).SetBytes(counter)
	low := new(big.Int).Mod(start, wrap)
	blocks := big.NewInt(int64((len(data) + size - 1) / size))
	if blocks.Cmp(wrap) > 0 {
		return nil, failf("OperationError", "the data is too long for a counter of %d bits", p.Bits)
	}
	out := make([]byte, len(data))
	before := len(data)
	if left := new(big.Int).Sub(wrap, low); blocks.Cmp(left) > 0 {
		before = int(left.Int64()) * size
	}
	cipher.NewCTR(block, counter).XORKeyStream(out[:before], data[:before])
	if before < len(data) {
		again := new(big.Int).Sub(start, low).FillBytes(make([]byte, size))
		cipher.NewCTR(block, again).XORKeyStream(out[before:], data[before:])
	}
	return one(out, nil)
}

// aesWrap is the key wrapping of RFC 3394.
func aesWrap(_ *Crypto, p *Params, in [][]byte) ([][]byte, error) {
	key, data := in[0], in[1]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, failf("OperationError", "%v", err)
	}
	check := bytes.Repeat([]byte{0xa6}, 8)
	least := 16
	if p.Decrypt {
		least = 24
	}
	if len(data)%8 != 0 || len(data) < least {
		return nil, failf("OperationError", "AES-KW takes a multiple of 8 bytes, at least %d", least)
	}
	buf := make([]byte, aes.BlockSize)
	if !p.Decrypt {
		out := append(bytes.Clone(check), data...)
		n := len(data) / 8
		copy(buf, check)
		for t := uint64(1); t <= uint64(6*n); t++ {
			r := out[8*(1+(t-1)%uint64(n)):][:8]
			copy(buf[8:], r)
			block.Encrypt(buf, buf)
			binary.BigEndian.PutUint64(buf, binary.BigEndian.Uint64(buf)^t)
			copy(r, buf[8:])
		}
		copy(out, buf[:8])
		return one(out, nil)
	}
	out := bytes.Clone(data[8:])
	n := len(out) / 8
	copy(buf, data[:8])
	for t := uint64(6 * n); t >= 1; t-- {
		r := out[8*((t-1)%uint64(n)):][:8]
		binary.BigEndian.PutUint64(buf, binary.BigEndian.Uint64(buf)^t)
		copy(buf[8:], r)
		block.Decrypt(buf, buf)
		copy(r, buf[8:])
	}
	if subtle.ConstantTimeCompare(buf[:8], check) != 1 {
		return nil, failf("OperationError", "unwrapping failed: the wrapped key or the key that wraps is wrong")
	}
	return one(out, nil)
}
