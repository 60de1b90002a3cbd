package recorded

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds one line: at level RequestResponse an event carries two objects of up to 3 MiB each.
const maxLine = 16 << 20

// progressEvery is how many bytes lie between two calls of Options.Progress.
const progressEvery = 64 << 20

// Source is one file of JSON lines, gzip or not.
type Source struct {
	Name   string
	Reader io.Reader
}

// lines reads a source's lines.
type lines struct {
	name     string
	counted  *counting
	in       *bufio.Reader
	buf      []byte
	number   int64
	told     int64
	progress func(name string, bytes, lines int64)
	end      error
}

func openLines(s Source, progress func(name string, bytes, lines int64)) (*lines, error) {
	l := &lines{name: s.Name, counted: &counting{r: s.Reader}, progress: progress, told: progressEvery}
	l.in = bufio.NewReaderSize(l.counted, 256<<10)
	if magic, _ := l.in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(l.in)
		if err != nil {
			return nil, fmt.Errorf("reading audit log %s: %w", s.Name, err)
		}
		l.in = bufio.NewReaderSize(unzipped, 256<<10)
	}
	return l, nil
}

// next returns a line that is not empty, good until the next call. tooLong is true for one over the limit, whose bytes are not
// kept. The error is io.EOF at the end, io.ErrUnexpectedEOF where compression ends in the middle.
func (l *lines) next() (data []byte, tooLong bool, err error) {
	for l.end == nil {
		l.buf = l.buf[:0]
		tooLong = false
		for {
			part, err := l.in.ReadSlice('\n')
			if tooLong = tooLong || len(l.buf)+len(part) > maxLine; tooLong {
				l.buf = l.buf[:0]
			} else {
				l.buf = append(l.buf, part...)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			l.end = err
			break
		}
		if l.counted.n >= l.told && l.progress != nil {
			l.told = l.counted.n + progressEvery
			l.progress(l.name, l.counted.n, l.number)
		}
		if data = bytes.TrimSpace(l.buf); len(data) > 0 || tooLong {
			l.number++
			return data, tooLong, nil
		}
	}
	if errors.Is(l.end, io.EOF) || errors.Is(l.end, io.ErrUnexpectedEOF) {
		return nil, false, l.end
	}
	return nil, false, fmt.Errorf("reading audit log %s after line %d: %w", l.name, l.number, l.end)
}

type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
