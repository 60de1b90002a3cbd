package peers

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// lines takes memberlist's log lines in. What is wrong is said once a minute for each kind: a peer with another key would
// fill the log.
type lines struct {
	log *slog.Logger
	m   *metrics

	mu   sync.Mutex
	said map[string]time.Time
	now  func() time.Time
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	text := string(bytes.TrimSpace(p))
	if _, after, found := strings.Cut(text, "memberlist: "); found {
		bad := strings.Contains(text, "[ERR]") || strings.Contains(text, "[WARN]")
		if strings.Contains(after, "ecrypt") || strings.Contains(after, "not encrypted") || strings.Contains(after, "No installed keys") {
			l.m.refused.WithLabelValues(refusedKey).Inc()
			bad = true
		}
		kind, _, _ := strings.Cut(after, ":")
		if bad && l.first(kind) {
			l.log.Warn("Speaking with other gates", "problem", after)
			return len(p), nil
		}
		text = after
	}
	l.log.Debug("Speaking with other gates", "detail", text)
	return len(p), nil
}

func (l *lines) first(kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if at, ok := l.said[kind]; ok && now.Sub(at) < time.Minute {
		return false
	}
	if len(l.said) > 100 {
		clear(l.said)
	}
	l.said[kind] = now
	return true
}
