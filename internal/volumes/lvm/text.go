package lvm

import (
	"fmt"
	"strconv"
)

// section is a section of LVM's text format: values and sections by name.
type section struct {
	values   map[string]value
	sections map[string]*section
	order    []string // names of sections as they stand
}

// value is a number, a string, or a list of those.
type value struct {
	text   string // of a string or number
	isText bool   // else number
	list   []value
	isList bool
}

// maxDepth is more than the format's sections and lists are nested.
const maxDepth = 8

// parser reads the text from front to back.
type parser struct {
	text []byte
	at   int
}

// parse reads a whole text.
func parse(text []byte) (*section, error) {
	p := &parser{text: text}
	s, err := p.section(0, "")
	if err != nil {
		return nil, fmt.Errorf("byte %d of the text: %w", p.at, err)
	}
	return s, nil
}

// section reads names and what follows them, up to the end mark.
func (p *parser) section(depth int, end string) (*section, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("sections nested more than %d deep", maxDepth)
	}
	s := &section{values: map[string]value{}, sections: map[string]*section{}}
	for {
		name, err := p.token()
		if err != nil {
			return nil, err
		}
		if name == end {
			return s, nil
		}
		if name == "" || name == "}" || !isWord(name[0]) {
			return nil, fmt.Errorf("%q where a name is expected", name)
		}
		if err := p.entry(s, name, depth); err != nil {
			return nil, err
		}
	}
}

// entry reads what follows a name.
func (p *parser) entry(s *section, name string, depth int) error {
	if _, twice := s.values[name]; twice || s.sections[name] != nil {
		return fmt.Errorf("%q stands twice", name)
	}
	mark, err := p.token()
	if err != nil {
		return err
	}
	switch mark {
	case "{":
		s.order = append(s.order, name)
		s.sections[name], err = p.section(depth+1, "}")
	case "=":
		s.values[name], err = p.value()
	default:
		err = fmt.Errorf("%q after the name %q", mark, name)
	}
	return err
}

// value reads a number, a string or a list.
func (p *parser) value() (value, error) {
	t, err := p.token()
	if err != nil {
		return value{}, err
	}
	if t != "[" {
		return scalar(t)
	}
	out := value{isList: true}
	for {
		if t, err = p.token(); err != nil {
			return value{}, err
		}
		switch t {
		case "]":
			return out, nil
		case ",":
			continue
		}
		v, err := scalar(t)
		if err != nil {
			return value{}, err
		}
		out.list = append(out.list, v)
	}
}

func scalar(t string) (value, error) {
	switch {
	case t == "":
		return value{}, fmt.Errorf("the text ends in a value")
	case t[0] == '"':
		return value{text: t[1:], isText: true}, nil
	case isWord(t[0]):
		return value{text: t}, nil
	}
	return value{}, fmt.Errorf("%q where a value is expected", t)
}

// token gives the next mark, word, or string behind a quotation mark; "" at the end.
func (p *parser) token() (string, error) {
	p.skip()
	if p.at == len(p.text) || p.text[p.at] == 0 {
		return "", nil
	}
	start := p.at
	c := p.text[p.at]
	switch {
	case c == '"':
		return p.quoted()
	case isWord(c):
		for p.at < len(p.text) && isWord(p.text[p.at]) {
			p.at++
		}
	default:
		p.at++
	}
	return string(p.text[start:p.at]), nil
}

// skip goes over white space and comments.
func (p *parser) skip() {
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '#':
			for p.at+1 < len(p.text) && p.text[p.at+1] != '\n' {
				p.at++
			}
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			return
		}
	}
}

// quoted reads a string; the first character of what it gives is the quotation mark.
func (p *parser) quoted() (string, error) {
	out := []byte{'"'}
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return string(out), nil
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			out = append(out, p.text[p.at])
		default:
			out = append(out, c)
		}
	}
	return "", fmt.Errorf("string without an end")
}

// isWord tells whether c may be part of a name or number.
func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '+' ||
		c == '.'
}

// number gives a number that is not negative.
func (s *section) number(name string) (uint64, error) {
	v, ok := s.values[name]
	if !ok || v.isText || v.isList {
		return 0, fmt.Errorf("no number %s", name)
	}
	return v.number()
}

func (v value) number() (uint64, error) { return strconv.ParseUint(v.text, 10, 63) }

// str gives a string; "" where there is none.
func (s *section) str(name string) string { return s.values[name].text }

// words gives a list of strings; nil where there is none.
func (s *section) words(name string) []string {
	var out []string
	for _, v := range s.values[name].list {
		out = append(out, v.text)
	}
	return out
}
