package survive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/seakeep/seakeep/internal/statefile"
)

// grantHeader is the first line of the grants' file.
type grantHeader struct {
	Cluster string `json:"cluster"`
	Grants  int    `json:"grants"`
}

func encodeGrants(w io.Writer, cluster string, all []grant) error {
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	out := json.NewEncoder(packed)
	if err := out.Encode(grantHeader{Cluster: cluster, Grants: len(all)}); err != nil {
		return err
	}
	for i := range all {
		if err := out.Encode(&all[i]); err != nil {
			return err
		}
	}
	return packed.Close()
}

// decodeGrants reads the grants' file. What is not exactly what was written grants nothing.
func decodeGrants(r io.Reader) (cluster string, all []grant, err error) {
	packed, err := gzip.NewReader(r)
	if err != nil {
		return "", nil, fmt.Errorf("unpacking: %w", err)
	}
	in := json.NewDecoder(bufio.NewReader(&io.LimitedReader{R: packed, N: wholeLimit / 4}))
	in.DisallowUnknownFields()
	var header grantHeader
	if err := in.Decode(&header); err != nil {
		return "", nil, fmt.Errorf("reading the first line: %w", err)
	}
	if header.Cluster == "" || header.Grants < 0 || header.Grants > mostGrants {
		return "", nil, errors.New("its first line is not complete")
	}
	for i := range header.Grants {
		var x grant
		if err := in.Decode(&x); err != nil {
			return "", nil, fmt.Errorf("reading grant %d of %d: %w", i+1, header.Grants, err)
		}
		switch {
		case x.User == "" || x.Resource == "" || x.Version == "" || x.Granted.IsZero():
			return "", nil, fmt.Errorf("grant %d of %d is not complete", i+1, header.Grants)
		case x.Verb != "get" && x.Verb != "list" && x.Verb != "watch":
			return "", nil, fmt.Errorf("grant %d of %d is for verb %q", i+1, header.Grants, x.Verb)
		}
		all = append(all, x)
	}
	if _, err := in.Token(); err != io.EOF {
		return "", nil, errors.New("there is more behind the last grant")
	}
	return header.Cluster, all, nil
}

func (s *Store) loadGrants() {
	var cluster string
	var all []grant
	fileMeta, err := s.grantFile.LoadStream(func(_ int, body io.Reader) (err error) {
		if cluster, all, err = decodeGrants(body); err != nil {
			return err
		}
		if s.cluster != "" && cluster != s.cluster {
			return fmt.Errorf("it is of cluster %s, and the others are of %s", cluster, s.cluster)
		}
		return nil
	})
	for _, refused := range fileMeta.Refused {
		s.log.Error("The kept grants were refused", "reason", refused)
	}
	if err != nil {
		if !errors.Is(err, statefile.ErrNone) {
			s.log.Error("No kept grants can be read; an outage before clients come again finds none", "reason", err)
		}
		return
	}
	s.cluster = cluster
	s.grants.mu.Lock()
	defer s.grants.mu.Unlock()
	for i := range all {
		s.grants.all[keyOf(&all[i].subject, &all[i].right)] = &all[i]
	}
}

// saveGrants writes the grants. They hold names, and no credential.
func (s *Store) saveGrants() {
	s.mu.Lock()
	cluster := s.cluster
	s.mu.Unlock()
	if cluster == "" {
		return
	}
	g := s.grants
	g.mu.Lock()
	all := make([]grant, 0, len(g.all))
	for _, x := range g.all {
		all = append(all, *x)
	}
	wasDirty := g.dirty
	g.dirty, g.saved = false, time.Now()
	g.mu.Unlock()
	if !wasDirty {
		return
	}
	var packed bytes.Buffer
	err := encodeGrants(&packed, cluster, all)
	if err == nil {
		err = s.grantFile.SaveStream(func(w io.Writer) error {
			_, err := w.Write(packed.Bytes())
			return err
		})
	}
	if err == nil {
		s.metrics.saves.WithLabelValues(savedGrants, saveOK).Inc()
		s.grantsFailing = false
		return
	}
	s.metrics.saves.WithLabelValues(savedGrants, saveFailed).Inc()
	if !s.grantsFailing {
		s.log.Error("Cannot keep grants on disk; they still count until this process ends", "reason", err)
	}
	s.grantsFailing = true
	g.mu.Lock()
	g.dirty = true
	g.mu.Unlock()
}
