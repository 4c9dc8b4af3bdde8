"""Where people tell their names: introductions and what stands below a letter, in English and Chinese.

By rules alone, and rather too few than too many: a name in the middle of a sentence is not known to be one. In each
pattern group 1 is what stands before the name and stays.
"""

from __future__ import annotations

import re

HAN = r"\u4e00-\u9fff"
_BIG, _SMALL = "A-ZÀ-ÖØ-Þ", "a-zß-öø-ÿ"
_WORD = rf"[{_BIG}](?:(?:[{_BIG}{_SMALL}]|['’-](?=[{_BIG}{_SMALL}])){{1,24}}|\.)"
_TITLE, _PARTICLE = r"(?:Mrs?|Ms|Miss|Dr|Prof)\.? ", "(?:de|da|dos|van|von|der|den|del|la|bin|al|el|di|le) "
_NAME = rf"(?:{_TITLE})?{_WORD}(?: (?:{_PARTICLE}){{0,2}}{_WORD}){{0,3}}"
_CALLED = rf"(?=[{_BIG}][{_SMALL}]){_NAME}"  # unlike "ASAP" and "I"

# What follows "my name is" and is no name.
_OTHER = (
    "a|an|the|my|your|his|her|its|our|their|this|that|these|those|it|not|no|none|so|too|very|also|just|only|really|still|now|"
    "here|there|in|on|at|for|of|to|from|by|with|without|like|as|and|or|but|because|if|when|what|who|which|why|how|where|"
    "often|always|never|already|quite|rather|pretty|spelt|written|wrong|right|correct|important|irrelevant|unimportant|"
    "common|uncommon|unusual|rare|long|short|hard|difficult|easy|simple|unique|known|unknown|taken|mine|private|secret|"
    "confidential|safe|famous|shown|up|all|ok|okay|fine|blank|empty|similar|different|same|foreign|odd|strange|weird|"
    "funny|beautiful|good|bad|being|one|two"
)
_LATER = (
    "Back|Maybe|When|If|At|On|In|Tomorrow|Today|Tonight|Later|Please|Now|Again|Once|After|Before|Crazy|Old|"
    "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
)
_KIND_OF_PERSON = (
    "American|Australian|Austrian|Belgian|Brazilian|British|Canadian|Chinese|Czech|Danish|Dutch|Egyptian|English|"
    "European|Finnish|French|German|Greek|Indian|Indonesian|Iranian|Irish|Israeli|Italian|Japanese|Jewish|Korean|"
    "Mexican|Muslim|Christian|Norwegian|Polish|Portuguese|Russian|Scottish|Spanish|Swedish|Swiss|Taiwanese|Thai|"
    "Turkish|Ukrainian|Vietnamese|Welsh|New|Not|So|Very|Just|Looking|Happy|Sorry|Great|The|My|Your|Our"
)

# The hundred most usual, and those of two characters.
_SURNAME = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程魏苏吕丁任沈姚卢姜崔钟"
    "谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
    "張劉陳楊黃趙吳孫馬羅鄭謝許韓馮鄧蔣葉蘇呂盧鐘譚陸賈韋鄒閆龍賀顧龔萬錢嚴湯"
)
_TWO = "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|歐陽|司馬|諸葛"
_GIVEN = rf"(?![了着过的他她你我它们来去人个吗吧呢啊不是在到给叫着個們])[{HAN}]"
_CHINESE = rf"(?:(?:{_TWO}|[{_SURNAME}]){_GIVEN}{{1,2}}|小(?![孩偷心贩狗猫声伙费时点姐]){_GIVEN})"
_ENDS = rf"(?=[^{HAN}]|\Z|今年|来自|來自|是|住|在|我|也|和)"
_FOREIGN = rf"[{HAN}]{{1,6}}(?:[·•・][{HAN}]{{1,6}}){{1,3}}"
_QUOTE = r"[ 「『“\"'‘]{0,2}"

# What people say of themselves. A model that says these speaks of itself.
INTRODUCED = (
    re.compile(
        r"((?i:\bmy (?:[a-z]{2,20}['’]s )?(?:full |first |last |family |real |given |middle )?name(?:['’]s| is)"
        rf"(?: called)?[:,]? ){_QUOTE})"
        rf"(?!(?i:{_OTHER})\b)"
        rf"(?:{_NAME}|[{HAN}]{{2,4}}|(?![a-z]{{1,20}}(?:ed|ing|ly|able|ible)\b)[a-z]{{2,20}}(?![\w'’-])"
        r"(?: [a-z]{2,20}(?=[.,!?;\n]|\Z))?)"
    ),
    re.compile(
        rf"((?i:\bI(?:['’]m| am) (?:called|named) |\bcalls? me |\bI go by ){_QUOTE})(?!(?:{_LATER})\b){_CALLED}"
    ),
    re.compile(
        r"((?i:\b(?:hi|hello|hey)(?: there| all| everyone| everybody| team)?[,!.]? )(?:I['’]m|I am|[Tt]his is) )"
        rf"(?!(?:{_KIND_OF_PERSON})\b){_CALLED}"
    ),
    re.compile(
        rf"((?:我的(?:名字|姓名|全名|中文名|英文名)[是叫为:：][做作]?|我名叫|姓名[是为:：]){_QUOTE})"
        r"(?![不什谁由个一父爸妈秘保没怎如取从根这那很啥假真必空电性年地])"
        rf"(?:{_FOREIGN}|[{HAN}]{{2,4}}?{_ENDS}|{_CALLED})"
    ),
    re.compile(rf"(我叫[做作]?{_QUOTE})(?:{_FOREIGN}|{_CHINESE}{_ENDS}|(?!Uber|Grab|Didi|Siri|Alexa|Chat){_CALLED})"),
    re.compile(rf"((?:我|免贵)姓)(?:{_TWO}|[{_SURNAME}]){_ENDS}"),
)

SIGNED = (
    re.compile(
        r"(^[ \t]{0,8}(?i:(?:best|kind|kindest|warm|warmest|many) (?:regards|wishes|thanks)|regards|"
        r"sincerely(?: yours)?|yours(?: sincerely| faithfully| truly)?|respectfully|cheers|thanks|thank you|love|best)"
        rf"[,，][ \t]{{0,4}}\n[ \t]{{0,4}}(?:\n[ \t]{{0,4}})?){_NAME}(?=[ \t]{{0,4}}(?:\n|\Z))",
        re.MULTILINE,
    ),
    re.compile(
        rf"(^[ \t\u3000]{{0,8}}(?:此致\s{{0,8}}敬[礼禮]|祝好|[顺順][颂頌]商祺)[!！。，,]?[ \t\u3000]{{0,8}}\n\s{{0,8}})"
        rf"{_CHINESE}(?=[ \t]{{0,4}}(?:\n|\Z))",
        re.MULTILINE,
    ),
)
