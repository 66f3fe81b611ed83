{{- define "cpm-gen.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "cpm-gen.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cpm-gen.labels" -}}
{{ include "cpm-gen.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "cpm-gen.keys" -}}
{{- if .Values.keys.lines }}{{ include "cpm-gen.name" . }}-keys{{ else }}{{ required "keys.secret: name the Secret with the API keys, or give keys.lines" .Values.keys.secret }}{{ end }}
{{- end }}

{{- /* Seconds for the pod to end: preStop, then --drain-timeout, or 10 s for the works' database; 2 s for the last responses, 10 s for
the engine to stop, and a margin of 3 s. */ -}}
{{- define "cpm-gen.graceSeconds" -}}
{{- $drain := max 10 (ceil (.Values.settings.drain_timeout | default 30)) -}}
{{ add .Values.preStopSeconds $drain 15 }}
{{- end }}
