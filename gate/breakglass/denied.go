package breakglass

import (
	"bufio"
	"bytes"
	"fmt"
	"math/big"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
)

// maxSerial is RFC 5280's bound on a serial number: 20 octets, in hexadecimal.
const maxSerial = 40

// parseDenied reads a list of denied serial numbers: one a line, in hexadecimal, upper or lower case, colons between
// octets allowed (what openssl and browsers print); # starts a comment. One bad line refuses the whole list: a typing
// error must not quietly let a revoked certificate in.
func parseDenied(data []byte) (sets.Set[string], error) {
	denied := sets.New[string]()
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		serial, err := parseSerial(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		denied.Insert(serial)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading lines: %w", err)
	}
	return denied, nil
}

func parseSerial(text string) (string, error) {
	digits := strings.ReplaceAll(text, ":", "")
	if digits == "" || len(digits) > maxSerial || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return "", fmt.Errorf("%q is not a serial number: up to %d hexadecimal digits", text, maxSerial)
	}
	number, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		return "", fmt.Errorf("%q is not a hexadecimal number", text)
	}
	return serialText(number), nil
}

// serialText is the one spelling serial numbers are compared in.
func serialText(serial *big.Int) string { return serial.Text(16) }
