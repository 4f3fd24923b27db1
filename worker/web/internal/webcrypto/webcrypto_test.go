package webcrypto_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/holdfast-io/holdfast/worker/web/internal/webcrypto"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What others computed: the vectors that the standards give.
func TestVectors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, op, params string
		in               []string
		want             string
	}{
		{
			"FIPS 180 abc", "digest", `{"hash":"SHA-256"}`,
			[]string{"616263"},
			"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		},
		{
			"RFC 4231 case 2", "hmac", `{"hash":"SHA-256"}`,
			[]string{"4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f"},
			"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
		},
		{
			"RFC 6070 case 2", "pbkdf2", `{"hash":"SHA-1","iterations":2,"bits":160}`,
			[]string{"70617373776f7264", "73616c74"},
			"ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957",
		},
		{
			"RFC 5869 case 1", "hkdf", `{"hash":"SHA-256","bits":336}`,
			[]string{"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9"},
			"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
		},
		{
			"RFC 3394 4.1", "aes-kw", `{}`,
			[]string{"000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff"},
			"1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
		},
		{
			"RFC 3394 4.1 unwrapped", "aes-kw", `{"decrypt":true}`,
			[]string{"000102030405060708090a0b0c0d0e0f", "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"},
			"00112233445566778899aabbccddeeff",
		},
		{
			"SP 800-38A CTR", "aes", `{"mode":"CTR","bits":128}`,
			[]string{"2b7e151628aed2a6abf7158809cf4f3c", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "", "6bc1bee22e409f96e93d7e117393172a"},
			"874d6191b620e3261bef6864990db6ce",
		},
	} {
		in := make([][]byte, 0, len(test.in))
		for _, s := range test.in {
			in = append(in, unhex(t, s))
		}
		out, err := webcrypto.New().Do(test.op, test.params, in...)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := hex.EncodeToString(out[0]); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// A counter of 4 bits wraps within those bits: the blocks are those of the counters 15, 0 and 1.
func TestCounterWraps(t *testing.T) {
	t.Parallel()
	c := webcrypto.New()
	key, zeros := make([]byte, 16), make([]byte, 48)
	block := func(counter string, n int) string {
		out, err := c.Do("aes", `{"mode":"CTR","bits":4}`, key, unhex(t, counter), nil, zeros[:n])
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(out[0])
	}
	const prefix = "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	if got, want := block(prefix+"f", 48), block(prefix+"f", 16)+block(prefix+"0", 16)+block(prefix+"1", 16); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestKeysOfEachKindThroughEachFormat(t *testing.T) {
	t.Parallel()
	c := webcrypto.New()
	for kind, scheme := range map[string]string{"RSA": "RSA-PSS", "P-256": "ECDSA", "P-384": "ECDSA", "P-521": "ECDSA", "Ed25519": "Ed25519", "X25519": ""} {
		made, err := c.Do("generate", `{"kind":"`+kind+`","bits":2048,"exponent":65537}`)
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"jwk", "pkcs8", "spki", "raw"} {
			if kind == "RSA" && format == "raw" {
				continue
			}
			params := `{"kind":"` + kind + `","format":"` + format + `"}`
			private := made[0]
			if format == "raw" || format == "spki" {
				private = nil
			}
			text, err := c.Do("export", params, private, made[1])
			if err != nil {
				t.Fatalf("%s %s: %v", kind, format, err)
			}
			back, err := c.Do("import", params, text[0])
			if err != nil {
				t.Fatalf("%s %s: %v", kind, format, err)
			}
			if string(back[1]) != string(made[1]) || (private != nil && string(back[0]) != string(private)) {
				t.Errorf("%s %s: the key is another one after export and import", kind, format)
			}
		}
		if scheme == "" {
			continue
		}
		p := `{"scheme":"` + scheme + `","hash":"SHA-256","saltLength":32}`
		signature, err := c.Do("sign", p, made[0], []byte("data"))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for data, want := range map[string]byte{"data": 1, "date": 0} {
			ok, err := c.Do("verify", p, made[1], signature[0], []byte(data))
			if err != nil || ok[0][0] != want {
				t.Errorf("%s: verify(%s) is %v, %v; want %d", kind, data, ok, err, want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		op, params string
		in         []string
		want       string
	}{
		{"digest", `{"hash":"SHA-3"}`, []string{""}, "NotSupportedError"},
		{"pbkdf2", `{"hash":"SHA-1","iterations":100001,"bits":8}`, []string{"", ""}, "NotSupportedError"},
		{"generate", `{"kind":"RSA","bits":8192,"exponent":65537}`, nil, "OperationError"},
		{"import", `{"kind":"P-256","format":"spki"}`, []string{"00"}, "DataError"},
		{"aes", `{"mode":"GCM","bits":128,"decrypt":true}`, []string{"00000000000000000000000000000000", "000000000000000000000000", "", "00"}, "OperationError"},
		{"aes", `{"mode":"GCM","bits":128}`, []string{"00", "00", "", ""}, "OperationError"},
		{"hmac", `{"hash":"SHA-1"}`, []string{""}, "TypeError"},
		{"none", `{}`, nil, "NotSupportedError"},
	} {
		in := make([][]byte, 0, len(test.in))
		for _, s := range test.in {
			in = append(in, unhex(t, s))
		}
		_, err := webcrypto.New().Do(test.op, test.params, in...)
		var named *webcrypto.Error
		if !errors.As(err, &named) || named.Name != test.want {
			t.Errorf("%s %s: got %v, want %s", test.op, test.params, err, test.want)
		}
	}
}
