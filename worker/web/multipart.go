package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
)

// Parts of one form.
const partsMax = 1000

// part is one of a form, as formdata.js reads it.
type part struct {
	Name     string  `json:"name"`
	Filename *string `json:"filename,omitempty"`
	Type     string  `json:"type"`
	Size     int     `json:"size"`
}

// parseMultipart takes a multipart/form-data body apart: JSON of its parts, and their contents one after the
// other.
func parseMultipart(body []byte, contentType string) (index string, contents []byte, err error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", nil, fmt.Errorf("the Content-Type is malformed: %w", err)
	}
	boundary := params["boundary"]
	if boundary == "" {
		return "", nil, errors.New("no boundary string in the Content-Type header. The multipart/form-data MIME type requires one")
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	parts := []part{}
	for {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", nil, fmt.Errorf("the multipart body is malformed: %w", err)
		}
		if len(parts) == partsMax {
			return "", nil, fmt.Errorf("the form has more than %d parts", partsMax)
		}
		one, data, err := readPart(p)
		if err != nil {
			return "", nil, err
		}
		parts = append(parts, one)
		contents = append(contents, data...)
	}
	text, err := json.Marshal(parts)
	return string(text), contents, err
}

func readPart(p *multipart.Part) (part, []byte, error) {
	disposition, params, err := mime.ParseMediaType(p.Header.Get("Content-Disposition"))
	name, named := params["name"]
	if err != nil || disposition != "form-data" || !named {
		return part{}, nil, errors.New("a part of the form has no valid Content-Disposition header with a name")
	}
	data, err := io.ReadAll(p)
	if err != nil {
		return part{}, nil, fmt.Errorf("the multipart body is malformed: %w", err)
	}
	out := part{Name: name, Type: p.Header.Get("Content-Type"), Size: len(data)}
	if filename, ok := params["filename"]; ok {
		out.Filename = &filename
		if out.Type == "" {
			out.Type = "text/plain"
		}
	}
	return out, data, nil
}
